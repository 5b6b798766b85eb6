"""Whether the files of a data set are those that its manifest tells of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from rag_diffusion.errors import DataError
from rag_diffusion.files import file_hash
from rag_diffusion.store.manifest import ORIGINALS, Manifest, originals_hint, rebuild_hint


def check_files(folder: Path, manifest: Manifest, *, whole: bool = False) -> None:
    """Compare the files of a generation with its manifest: their length, or every byte.

    Args:
        folder: of the generation.
        manifest: names them.
        whole: whether every byte is read.

    Raises:
        DataError: one is missing, cut, or was changed.
    """
    for name, entry in manifest.files.items():
        if not PurePath(name).name.startswith(ORIGINALS):
            _check_file(folder / name, entry, rebuild_hint(manifest.name), whole=whole)
    check_originals(folder, manifest, whole=whole)
    for shard in manifest.shards:
        _check_file(folder / shard["name"], shard, "add the data set again with --replace", whole=whole)


def check_originals(folder: Path, manifest: Manifest, *, whole: bool = False) -> None:
    """`check_files` of the originals alone.

    Args:
        folder: of the generation, or of the pipeline's corpus.
        manifest: names them.
        whole: whether every byte is read.

    Raises:
        DataError: one is missing, cut, or was changed.
    """
    for name, entry in manifest.files.items():
        if PurePath(name).name.startswith(ORIGINALS):
            _check_file(folder / name, entry, originals_hint(manifest.name), whole=whole)


def _check_file(path: Path, entry: Mapping[str, Any], remedy: str, *, whole: bool) -> None:
    got = f"{path.stat().st_size} bytes" if path.is_file() else "no file"
    if got != f"{entry['bytes']} bytes":
        raise DataError(f"{path}: expected {entry['bytes']} bytes, got {got}: it was cut, changed or removed; {remedy}")
    if whole and file_hash(path) != entry["sha256"]:
        raise DataError(f"{path}: expected sha256 {entry['sha256'][:12]}…, got another: it was changed; {remedy}")
