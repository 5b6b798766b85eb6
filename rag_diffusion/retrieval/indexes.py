"""What searching needs beside pairs and vectors: faiss indexes, counts of the captions' words, a recall report.

Memory does not grow with the number of pairs, but for the counts of their words and an index that is not `Flat`.

Shapes: n pairs, D width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from rag_diffusion.arrays import Floats
from rag_diffusion.config import IndexConfig
from rag_diffusion.errors import LineageError
from rag_diffusion.layout import RECALL_FILE
from rag_diffusion.retrieval.ann import Exhaustive, Nearest, VectorIndex
from rag_diffusion.retrieval.counts import TermCounts
from rag_diffusion.retrieval.recall import RECALL_QUERIES, recall_report
from rag_diffusion.store.vectors import Vectors

INDEX_FILES = {"text_to_image": "image.index", "text_to_text": "text.index"}
EXACT = "Flat"
EXACT_BELOW = 4096  # pairs; so few are searched exhaustively, whatever `index.factory` says
_EXACT_QUERIES = 64  # of the report on an index that is exact by construction


def build_indexes(folder: Path, vectors: Vectors, config: IndexConfig) -> dict[str, Any]:
    """Index vectors into a folder and write the recall report; an exact search needs no file but the vectors.

    Args:
        folder: where the indexes will lie.
        vectors: n of images and of captions.
        config: which faiss index, and how much it has to recall.

    Returns:
        The report, which `check_recall` judges; its factory is that of the index that was made.

    Raises:
        ConfigError: there is no such index.
    """
    rows = len(vectors.image)
    exact = config.factory == EXACT or rows < EXACT_BELOW
    bases = _bases(vectors)
    indexes: dict[str, tuple[Nearest, Floats]] = {}
    for name, base in bases.items():
        index = Exhaustive(base) if exact else VectorIndex.build(base, config.factory)
        if isinstance(index, VectorIndex):
            index.save(folder / INDEX_FILES[name])
        indexes[name] = (index, base)
    report = recall_report(
        {name.removeprefix("text_to_"): built for name, built in indexes.items()},
        vectors.text,
        factory=EXACT if exact else config.factory,
        min_recall=config.min_recall,
        num_queries=_EXACT_QUERIES if exact else RECALL_QUERIES,
    )
    (folder / RECALL_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def open_indexes(folder: Path, vectors: Vectors, factory: str, remedy: str) -> dict[str, Nearest]:
    """The indexes over vectors, by similarity; an exact one is the vectors themselves.

    Args:
        folder: that `build_indexes` wrote into.
        vectors: n of images and of captions.
        factory: of the faiss index.
        remedy: what makes a new one, for errors.

    Raises:
        DataError: one is missing or damaged.
        LineageError: one is of other vectors.
    """
    bases = _bases(vectors)
    if factory == EXACT:
        return {name: Exhaustive(base) for name, base in bases.items()}
    opened: dict[str, Nearest] = {}
    for name, base in bases.items():
        index = VectorIndex.load(folder / INDEX_FILES[name], remedy=remedy)
        if (len(index), index.width) != base.shape:
            raise LineageError(
                f"{folder / INDEX_FILES[name]}: expected an index of {len(base)} vectors of width {base.shape[1]}, "
                f"got one of {len(index)} and {index.width}; {remedy}"
            )
        opened[name] = index
    return opened


def count_words(folder: Path, captions: pa.ChunkedArray) -> None:
    """Count the words of `captions` into a `folder`, a chunk after the other."""
    counted = [TermCounts.from_texts((text.as_py() for text in chunk), needs_words=False) for chunk in captions.chunks]
    TermCounts.merged(counted).save(folder)


def _bases(vectors: Vectors) -> dict[str, Floats]:
    return {"text_to_image": vectors.image, "text_to_text": vectors.text}
