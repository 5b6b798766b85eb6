"""Which versions of a data set DVC keeps: what its .dvc file says now, and said in every commit.

`rag-diffusion kb snapshot` writes the file and notes in it, as `meta`, which pairs it is of.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from rag_diffusion.errors import DataError
from rag_diffusion.files import atomic_write
from rag_diffusion.layout import SNAPSHOTS
from rag_diffusion.store.manifest import Manifest
from rag_diffusion.types import DataSetVersion


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A version of a data set that DVC tracks.

    Attributes:
        version: of the data set.
        commit: the newest one whose .dvc file is of it; empty where none is.
        dvc_file: the text of that file.
        md5: DVC's name of the folder.
    """

    version: DataSetVersion
    commit: str
    dvc_file: str
    md5: str


def dvc_path(name: str) -> str:
    """The .dvc file of the data set `name`, relative to the root."""
    return f"{SNAPSHOTS}/{name}.dvc"


def note(root: Path, manifest: Manifest) -> None:
    """Say in the .dvc file that DVC has just written below `root` which pairs it is of: those of `manifest`."""
    path = root / dvc_path(manifest.name)
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["meta"] = {"md5": content["outs"][0]["md5"], **asdict(manifest.version)}
    atomic_write(path, yaml.safe_dump(content, sort_keys=False))


def snapshots(root: Path, name: str) -> list[Snapshot]:
    """Every version of a data set that a .dvc file names, that of the present file first, then the newest.

    Args:
        root: the project.
        name: of the data set.
    """
    by_version: dict[str, Snapshot] = {}
    present = root / dvc_path(name)
    if present.is_file():
        _take(by_version, present.read_text(encoding="utf-8"), "")
    for commit in _commits(root, dvc_path(name)):
        _take(by_version, _git(root, "show", f"{commit}:./{dvc_path(name)}"), commit)
    return list(by_version.values())


def find_snapshot(root: Path, name: str, version: str) -> Snapshot:
    """The snapshot of a version.

    Args:
        root: the project.
        name: of the data set.
        version: the hash of its pairs, or the beginning of it.

    Raises:
        DataError: there is none, or several begin so.
    """
    tracked = snapshots(root, name)
    matches = [kept for kept in tracked if version and kept.version.hash.startswith(version)]
    if len(matches) != 1:
        choice = ", ".join(kept.version.hash[:12] for kept in tracked) or "no snapshot at all"
        raise DataError(f"kb: expected one version of {name!r} that DVC tracks, as {choice}, got {version!r}")
    return matches[0]


def _take(by_version: dict[str, Snapshot], text: str, commit: str) -> None:
    """Note a .dvc file; of one version the first commit counts, and that more than none."""
    entry = _read(text)
    if entry is None:
        return
    version, md5 = entry
    earlier = by_version.get(version.hash)
    if earlier is None or (not earlier.commit and earlier.md5 == md5):
        by_version[version.hash] = Snapshot(version=version, commit=commit, dvc_file=text, md5=md5)


def _read(text: str) -> tuple[DataSetVersion, str] | None:
    """The pairs that a .dvc file is of, and DVC's name of the folder; None where nobody noted that."""
    try:
        content: Mapping[str, Any] = yaml.safe_load(text)
        meta = dict(content["meta"])
        md5 = str(meta.pop("md5"))
        return (DataSetVersion(**meta), md5) if md5 == content["outs"][0]["md5"] else None
    except (yaml.YAMLError, KeyError, IndexError, TypeError, ValueError):
        return None


def _commits(root: Path, path: str) -> Iterator[str]:
    """Commits of every branch that changed a file, the newest first; none outside of git."""
    yield from _git(root, "log", "--all", "--format=%H", "--", path).split()


def _git(root: Path, *command: str) -> str:
    """What git says; nothing where it has nothing to say."""
    try:
        result = subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return result.stdout if result.returncode == 0 else ""
