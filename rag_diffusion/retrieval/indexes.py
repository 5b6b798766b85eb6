"""What searching needs beside pairs and vectors: indexes, counts of the captions' words, a recall report.

Memory does not grow with the number of pairs, but for the counts of their words and an index that is not `Flat`.

Shapes: n pairs, D width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from rag_diffusion.arrays import Floats
from rag_diffusion.config import IndexConfig
from rag_diffusion.layout import RECALL_FILE
from rag_diffusion.retrieval.ann import Exhaustive, Nearest, evenly_spread
from rag_diffusion.retrieval.counts import TermCounts
from rag_diffusion.retrieval.factories import EXACT, choices
from rag_diffusion.retrieval.index_files import build_index, load_index, save_index
from rag_diffusion.retrieval.operating_point import choose_point
from rag_diffusion.retrieval.recall import RECALL_DEPTH, RECALL_QUERIES, recall_report
from rag_diffusion.retrieval.truth import Truth
from rag_diffusion.store.vectors import Vectors

INDEX_FILES = {"text_to_image": "image.index", "text_to_text": "text.index"}
_EXACT_QUERIES = 64  # of the report on an index that is exact by construction


def build_indexes(folder: Path, vectors: Vectors, config: IndexConfig) -> dict[str, Any]:
    """Index vectors into a folder and write the recall report; an exact search needs no file but the vectors.

    Each index gets the fastest operating point that recalls enough; `auto` takes the first index that has one.

    Args:
        folder: where the indexes will lie.
        vectors: n of images and of captions.
        config: which index, how much it has to recall, and how much memory it may take.

    Returns:
        The report, which `check_recall` judges; its factory is that of the index that was made.

    Raises:
        ConfigError: there is no such index.
        MissingExtraError: its library is not installed.
    """
    rows, width = vectors.image.shape
    factories = choices(config.factory, rows, width, memory=config.memory, min_recall=config.min_recall)
    truths: dict[str, tuple[Truth, Truth]] = {}
    for factory in factories:
        if factory == EXACT:
            report = _exact_report(vectors, config)
        else:
            truths = truths or _truths(vectors)
            report = _built(folder, truths, factory, config)
        if report["passed"]:
            break
    (folder / RECALL_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def open_indexes(folder: Path, vectors: Vectors, factory: str, remedy: str) -> dict[str, Nearest]:
    """The indexes over vectors, by similarity; an exact one is the vectors themselves.

    Args:
        folder: that `build_indexes` wrote into.
        vectors: n of images and of captions.
        factory: of the indexes.
        remedy: what makes a new one, for errors.

    Raises:
        DataError: one is missing or damaged.
        LineageError: one is of other vectors, or of another version.
        MissingExtraError: its library is not installed.
    """
    bases = _bases(vectors)
    if factory == EXACT:
        return {name: Exhaustive(base) for name, base in bases.items()}
    return {name: load_index(folder / INDEX_FILES[name], base, remedy) for name, base in bases.items()}


def count_words(folder: Path, captions: pa.ChunkedArray) -> None:
    """Count the words of `captions` into a `folder`, a chunk after the other."""
    counted = [TermCounts.from_texts((text.as_py() for text in chunk), needs_words=False) for chunk in captions.chunks]
    TermCounts.merged(counted).save(folder)


def _truths(vectors: Vectors) -> dict[str, tuple[Truth, Truth]]:
    """For each index, what it should find for the captions that it is tuned by, and for those that it is checked by."""
    between = max(1, len(vectors.text) // (2 * RECALL_QUERIES))
    tuning, check = (evenly_spread(text, RECALL_QUERIES) for text in (vectors.text[between:], vectors.text))
    return {
        name: (Truth(base, tuning, RECALL_DEPTH), Truth(base, check, RECALL_DEPTH))
        for name, base in _bases(vectors).items()
    }


def _built(
    folder: Path, truths: Mapping[str, tuple[Truth, Truth]], factory: str, config: IndexConfig
) -> dict[str, Any]:
    """Build, tune and write both indexes, one after the other; what they recall."""
    recalls, points = dict[str, float](), dict[str, Mapping[str, int]]()
    for name, (tuning, check) in truths.items():
        index = build_index(check.vectors, factory)
        short = name.removeprefix("text_to_")
        points[short] = choose_point(index, tuning, check, config.min_recall)
        recalls[short] = check.recall(index)
        save_index(folder / INDEX_FILES[name], index, factory, points[short])
    return recall_report(
        recalls,
        points,
        factory=factory,
        num_pairs=len(check.vectors),
        num_queries=len(check.queries),
        min_recall=config.min_recall,
    )


def _exact_report(vectors: Vectors, config: IndexConfig) -> dict[str, Any]:
    queries = evenly_spread(vectors.text, _EXACT_QUERIES)
    recalls = {
        name.removeprefix("text_to_"): Truth(base, queries, RECALL_DEPTH).recall(Exhaustive(base))
        for name, base in _bases(vectors).items()
    }
    return recall_report(
        recalls,
        {},
        factory=EXACT,
        num_pairs=len(vectors.image),
        num_queries=len(queries),
        min_recall=config.min_recall,
    )


def _bases(vectors: Vectors) -> dict[str, Floats]:
    return {"text_to_image": vectors.image, "text_to_text": vectors.text}
