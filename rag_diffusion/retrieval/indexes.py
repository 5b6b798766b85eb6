"""What searching needs beside pairs and vectors: indexes, counts of the captions' words, a recall report.

Memory does not grow with the number of pairs, but for the counts of their words and an index that is not `Flat`.

Shapes: n pairs, D width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
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
_CAPTIONS, _SHORT = "", "_short"  # kinds of queries, as the report's recalls end
_EXACT_QUERIES = 64  # of the report on an index that is exact by construction


class _Truths:
    """For each index, what it should find, by the vectors in float32; searched for once, where it is asked for.

    Args:
        exact: n of images and of captions.
        short: see `build_indexes`.
    """

    def __init__(self, exact: Vectors, short: Callable[[], Floats] | None) -> None:
        self._exact, self._encode_short = exact, short

    @cached_property
    def captions(self) -> dict[str, Truth]:
        """For the captions that an index is checked by."""
        return self._of(evenly_spread(self._exact.text, RECALL_QUERIES))

    @cached_property
    def check(self) -> dict[str, dict[str, Truth]]:
        """For all queries that it is checked by, by their kind."""
        return self._kinds(self.captions, self._short[::2])

    @cached_property
    def tuning(self) -> dict[str, dict[str, Truth]]:
        """For others, that it is tuned by."""
        text = self._exact.text
        between = stretch_of(text, max(1, len(text) // (2 * RECALL_QUERIES)), len(text))
        return self._kinds(self._of(evenly_spread(between, RECALL_QUERIES)), self._short[1::2])

    @cached_property
    def _short(self) -> Floats:
        none = np.empty((0, self._exact.text.shape[1]), dtype=np.float32)
        return none if self._encode_short is None else self._encode_short()

    def _kinds(self, captions: dict[str, Truth], short: Floats) -> dict[str, dict[str, Truth]]:
        others = self._of(short) if len(short) else {}
        return {
            name: {_CAPTIONS: truth} | ({_SHORT: others[name]} if others else {}) for name, truth in captions.items()
        }

    def _of(self, queries: Floats) -> dict[str, Truth]:
        return {name: Truth(base, queries, RECALL_DEPTH) for name, base in _bases(self._exact).items()}


def build_indexes(
    folder: Path,
    vectors: Vectors,
    config: IndexConfig,
    exact: Vectors | None = None,
    *,
    short: Callable[[], Floats] | None = None,
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
        short: gives (Q, D) vectors of `short_texts`, by which an index is tuned and checked beside captions; called
            where it is. None: captions alone.
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
    truths, kept = _Truths(exact or vectors, short), dict[str, float]()
    if exact is not None and vectors.precision != "float32":
        kept = {_space(name): truths.captions[name].recall(Exhaustive(base)) for name, base in _bases(vectors).items()}
        factories = factories if min(kept.values()) >= config.min_recall else [EXACT]
    for factory in factories:
        if factory != EXACT:
            report = _built(folder, vectors, truths, factory, config)
        elif kept:
            report = _report(kept, {}, {_CAPTIONS: truths.captions["text_to_text"]}, EXACT, vectors, config)
        else:
            report = _exact_report(vectors, config)
        if report["passed"]:
            break
    report = with_earlier(with_precision(report, vectors.precision, kept), earlier)
    (folder / RECALL_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def is_tuned(config: IndexConfig, rows: int, width: int) -> bool:
    """Whether `build_indexes` tunes the index; an exact one has no setting.

    Args:
        config: of the index.
        rows: n of the vectors.
        width: D of them.
    """
    return choices(config.factory, rows, width, memory=config.memory, min_recall=config.min_recall)[0] != EXACT


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
        index, check, own = build_index(base, factory), truths.check[name], _space(name)
        points[own] = choose_point(index, [*truths.tuning[name].values()], [*check.values()], config.min_recall)
        recalls |= {f"{own}{kind}": truth.recall(index) for kind, truth in check.items()}
        save_index(folder / INDEX_FILES[name], index, factory, points[own])
    return _report(recalls, points, check, factory, vectors, config)


def _exact_report(vectors: Vectors, config: IndexConfig) -> dict[str, Any]:
    queries = evenly_spread(vectors.text, _EXACT_QUERIES)
    truths = {name: Truth(base, queries, RECALL_DEPTH) for name, base in _bases(vectors).items()}
    recalls = {_space(name): truths[name].recall(Exhaustive(base)) for name, base in _bases(vectors).items()}
    return _report(recalls, {}, {_CAPTIONS: truths["text_to_text"]}, EXACT, vectors, config)


def _report(
    recalls: Mapping[str, float],
    points: Mapping[str, Mapping[str, int]],
    asked: Mapping[str, Truth],
    factory: str,
    vectors: Vectors,
    config: IndexConfig,
) -> dict[str, Any]:
    return recall_report(
        recalls,
        points,
        factory=factory,
        num_pairs=len(vectors.image),
        num_queries=len(asked[_CAPTIONS].queries),
        num_short=len(asked[_SHORT].queries) if _SHORT in asked else 0,
        min_recall=config.min_recall,
    )


def _space(name: str) -> str:
    return name.removeprefix("text_to_")


def _bases(vectors: Vectors) -> dict[str, Rows]:
    return {"text_to_image": vectors.image, "text_to_text": vectors.text}
