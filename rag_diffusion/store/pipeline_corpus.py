"""What the pipeline's own corpus says of itself, read without anything that embeds or searches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rag_diffusion.errors import DataError
from rag_diffusion.layout import CORPUS, INDEX, RECALL_FILE, STAMP_FILE, VECTORS
from rag_diffusion.store.manifest import CORPUS_NAME, PIPELINE, Manifest

CORPUS_MANIFEST = "manifest.json"


def read_corpus(folder: Path) -> tuple[dict[str, Any], Manifest]:
    """What the corpus in a `folder` says of itself: all that `ingest` wrote, and of it what every data set has.

    Raises:
        DataError: it is missing or damaged.
    """
    path = folder / CORPUS_MANIFEST
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return facts, as_manifest(facts)
    except FileNotFoundError:
        raise DataError(f"{folder}: expected a corpus, found no {CORPUS_MANIFEST}; run the stage `ingest`") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: expected the manifest of a corpus, got {error!r}; run the stage `ingest` again"
        ) from None


def as_manifest(facts: Mapping[str, Any]) -> Manifest:
    """`facts` of a corpus as any data set says them, but for those of its vectors and index.

    Raises:
        KeyError, TypeError: they are those of no corpus.
    """
    return Manifest(
        name=CORPUS_NAME,
        form=PIPELINE,
        origin=str(facts.get("kind", "")),
        num_pairs=facts["num_pairs"],
        num_rejected=facts.get("num_rejected", 0),
        rejected_by_reason=facts.get("rejected_by_reason", {}),
        counts=facts["counts"],
        hash=facts["hash"],
        image_size=facts["image_size"],
        shards=facts["shards"],
        originals=facts.get("originals", True),
        num_originals=facts.get("num_originals", 0),
        original_bytes=facts.get("original_bytes", 0),
        files=facts.get("files", {}),
        style_words=facts.get("style_words", {}),
    )


def corpus_manifest(root: Path) -> Manifest | None:
    """What the corpus of the project at `root` says of itself; None where no stage has made one.

    Raises:
        DataError: it is damaged.
    """
    if not (root / CORPUS / CORPUS_MANIFEST).is_file():
        return None
    return replace(
        read_corpus(root / CORPUS)[1],
        encoder_hash=str(_json(root / VECTORS / STAMP_FILE).get("encoder_hash", "")),
        recall=_json(root / INDEX / RECALL_FILE),
    )


def indexed(root: Path) -> bool:
    """Whether the pipeline of the project at `root` has run up to `index`, or had."""
    return (root / INDEX / STAMP_FILE).is_file() and (root / VECTORS / STAMP_FILE).is_file()


def state(root: Path) -> tuple[int, ...]:
    """Inode, time in ns and size of three files; changes with the corpus, vectors or index of the project at `root`."""
    paths = (root / CORPUS / CORPUS_MANIFEST, root / VECTORS / STAMP_FILE, root / INDEX / STAMP_FILE)
    stats = [path.stat() for path in paths if path.is_file()]
    return tuple(number for stat in stats for number in (stat.st_ino, stat.st_mtime_ns, stat.st_size))


def _json(path: Path) -> dict[str, Any]:
    """A small file where it is there; whoever needs it says what is wrong with it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
