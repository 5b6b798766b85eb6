"""What the pipeline's own corpus says of itself, read without anything that embeds or searches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rag_diffusion.errors import DataError
from rag_diffusion.layout import CORPUS, INDEX, RECALL_FILE, STAMP_FILE, VECTORS
from rag_diffusion.store.manifest import CORPUS_NAME, PIPELINE, Manifest, rebuild_hint


def corpus_manifest(root: Path) -> Manifest | None:
    """What the pipeline's corpus says of itself; None where no stage has made one.

    Raises:
        DataError: it is damaged.
    """
    path = root / CORPUS / "manifest.json"
    if not path.is_file():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return Manifest(
            name=CORPUS_NAME,
            form=PIPELINE,
            origin=str(raw.get("kind", "")),
            num_pairs=raw["num_pairs"],
            num_rejected=raw.get("num_rejected", 0),
            rejected_by_reason=raw.get("rejected_by_reason", {}),
            counts=raw["counts"],
            hash=raw["hash"],
            image_size=raw["image_size"],
            shards=raw["shards"],
            encoder_hash=str(_json(root / VECTORS / STAMP_FILE).get("encoder_hash", "")),
            recall=_json(root / INDEX / RECALL_FILE),
            style_words=raw.get("style_words", {}),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: expected the manifest of a corpus, got {error!r}; {rebuild_hint(CORPUS_NAME)}"
        ) from None


def indexed(root: Path) -> bool:
    """Whether the pipeline has run up to `index`, or had."""
    return (root / INDEX / STAMP_FILE).is_file() and (root / VECTORS / STAMP_FILE).is_file()


def state(root: Path) -> tuple[int, ...]:
    """Changes with the corpus, its vectors or its index."""
    paths = (root / CORPUS / "manifest.json", root / VECTORS / STAMP_FILE, root / INDEX / STAMP_FILE)
    found = [path.stat() if path.is_file() else None for path in paths]
    return tuple(number for one in found if one for number in (one.st_ino, one.st_mtime_ns, one.st_size))


def _json(path: Path) -> dict[str, Any]:
    """A small file where it is there; whoever needs it says what is wrong with it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
