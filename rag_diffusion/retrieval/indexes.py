"""What searching needs beside pairs and vectors: indexes, counts of the captions' words, a recall report.

Memory does not grow with the number of pairs, but for the counts of their words and an index that is not `Flat`.

Shapes: n pairs, D width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from rag_diffusion.arrays import Floats
from rag_diffusion.config import IndexConfig
from rag_diffusion.layout import RECALL_FILE
from rag_diffusion.retrieval.ann import Exhaustive, Nearest, evenly_spread
from rag_diffusion.retrieval.counts import TermCounts
from rag_diffusion.retrieval.factories import AUTO, EXACT, choices
from rag_diffusion.retrieval.index_files import build_index, check_known, load_index, save_index
from rag_diffusion.retrieval.operating_point import choose_point
from rag_diffusion.retrieval.recall import RECALL_DEPTH, RECALL_QUERIES, recall_report, with_earlier, with_precision
from rag_diffusion.retrieval.truth import Truth
from rag_diffusion.store.vectors import Rows, Vectors, stretch_of

INDEX_FILES = {"text_to_image": "image.index", "text_to_text": "text.index"}
_EXACT_QUERIES = 64  # of the report on an index that is exact by construction


class _Truths:
    """For each index, what it should find, by the vectors in float32; searched for once, where it is asked for.

    Args:
        exact: n of images and of captions.
    """

    def __init__(self, exact: Vectors) -> None:
        self._exact = exact

    @cached_property
    def tuning(self) -> dict[str, Truth]:
        """For the captions that an index is tuned by."""
        between = max(1, len(self._exact.text) // (2 * RECALL_QUERIES))
        return self._of(evenly_spread(stretch_of(self._exact.text, between, len(self._exact.text)), RECALL_QUERIES))

    @cached_property
    def check(self) -> dict[str, Truth]:
        """For the captions that it is checked by."""
        return self._of(evenly_spread(self._exact.text, RECALL_QUERIES))

    def _of(self, queries: Floats) -> dict[str, Truth]:
        return {name: Truth(base, queries, RECALL_DEPTH) for name, base in _bases(self._exact).items()}


def build_indexes(
    folder: Path,
    vectors: Vectors,
    config: IndexConfig,
    exact: Vectors | None = None,
    *,
    earlier: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Index vectors into a folder and write the recall report; an exact search needs no file but the vectors.

    Each index gets the fastest operating point that recalls enough; `auto` takes the first index that has one. None is
    built where the vectors are kept in so few bits that exhaustive search itself does not.

    Args:
        folder: where the indexes will lie.
        vectors: n of images and of captions, as they will be searched.
        config: which index, how much it has to recall, and how much memory it may take.
        exact: the same as they were before they were kept in fewer bits, which recall counts against; None where these
            are they.
        earlier: reports of the vectors that come from other data sets or segments, see `with_earlier`.

    Returns:
        The report, which `check_recall` judges; its factory is that of the index that was made.

    Raises:
        ConfigError: there is no such index.
        MissingExtraError: its library is not installed.
    """
    rows, width = vectors.image.shape
    if config.factory != AUTO:
        check_known(config.factory, width)
    factories = choices(config.factory, rows, width, memory=config.memory, min_recall=config.min_recall)
    truths, kept = _Truths(exact or vectors), dict[str, float]()
    if exact is not None and vectors.precision != "float32":
        kept = {_short(name): truths.check[name].recall(Exhaustive(base)) for name, base in _bases(vectors).items()}
        factories = factories if min(kept.values()) >= config.min_recall else [EXACT]
    for factory in factories:
        if factory != EXACT:
            report = _built(folder, vectors, truths, factory, config)
        elif kept:
            report = _report(kept, {}, len(truths.check["text_to_text"].queries), EXACT, vectors, config)
        else:
            report = _exact_report(vectors, config)
        if report["passed"]:
            break
    report = with_earlier(with_precision(report, vectors.precision, kept), earlier)
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


def _built(folder: Path, vectors: Vectors, truths: _Truths, factory: str, config: IndexConfig) -> dict[str, Any]:
    """Build, tune and write both indexes, one after the other; what they recall."""
    recalls, points = dict[str, float](), dict[str, Mapping[str, int]]()
    for name, base in _bases(vectors).items():
        index, check = build_index(base, factory), truths.check[name]
        points[_short(name)] = choose_point(index, truths.tuning[name], check, config.min_recall)
        recalls[_short(name)] = check.recall(index)
        save_index(folder / INDEX_FILES[name], index, factory, points[_short(name)])
    return _report(recalls, points, len(check.queries), factory, vectors, config)


def _exact_report(vectors: Vectors, config: IndexConfig) -> dict[str, Any]:
    queries = evenly_spread(vectors.text, _EXACT_QUERIES)
    recalls = {
        _short(name): Truth(base, queries, RECALL_DEPTH).recall(Exhaustive(base))
        for name, base in _bases(vectors).items()
    }
    return _report(recalls, {}, len(queries), EXACT, vectors, config)


def _report(
    recalls: Mapping[str, float],
    points: Mapping[str, Mapping[str, int]],
    num_queries: int,
    factory: str,
    vectors: Vectors,
    config: IndexConfig,
) -> dict[str, Any]:
    return recall_report(
        recalls,
        points,
        factory=factory,
        num_pairs=len(vectors.image),
        num_queries=num_queries,
        min_recall=config.min_recall,
    )


def _short(name: str) -> str:
    return name.removeprefix("text_to_")


def _bases(vectors: Vectors) -> dict[str, Rows]:
    return {"text_to_image": vectors.image, "text_to_text": vectors.text}
