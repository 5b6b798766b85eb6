"""One retriever over data sets together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from rag_diffusion.arrays import Doubles, Ints
from rag_diffusion.config import Config
from rag_diffusion.retrieval.counts import TermCounts
from rag_diffusion.retrieval.data_set import DataSet
from rag_diffusion.retrieval.encoder_folder import PairEncoder
from rag_diffusion.retrieval.lexical import Lexical, LexicalIndex, NoWords
from rag_diffusion.retrieval.postings import RowFilter
from rag_diffusion.retrieval.retriever import Method, Retriever
from rag_diffusion.retrieval.stacked import StackedIndex, StackedPairs, StackedVectors, in_order_of_ids
from rag_diffusion.retrieval.weighting import LexicalName


class LexicalCache:
    """Room for the lexical indexes of one retriever out of many: those of another one take their place."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._owner: object = None
        self._held: Mapping[str, Lexical] = {}

    def get(self, owner: object, make: Callable[[], Mapping[str, Lexical]]) -> Mapping[str, Lexical]:
        """The indexes of a retriever, made where they are not here."""
        with self._lock:
            if self._owner is not owner:
                self._held = {}  # before the new ones take memory
                self._held, self._owner = make(), owner
            return self._held


class LazyLexical:
    """A lexical index that is made when it is used; see `Lexical`.

    Args:
        name: the similarity.
        total: texts.
        all_of: gives the indexes of its retriever.
    """

    def __init__(self, name: str, total: int, load: Callable[[], Mapping[str, Lexical]]) -> None:
        self._name, self._total, self._load = name, total, load

    def __len__(self) -> int:
        return self._total

    def top(self, query: str, k: int, row_filter: RowFilter | None = None) -> tuple[Ints, Doubles]:
        """See `Lexical`."""
        return self._load()[self._name].top(query, k, row_filter)

    def at(self, query: str, rows: NDArray[np.integer]) -> Doubles:
        """See `Lexical`."""
        return self._load()[self._name].at(query, rows)

    def explain(self, query: str) -> dict[str, float]:
        """See `Lexical`."""
        return self._load()[self._name].explain(query)


def assembled(
    parts: Sequence[DataSet], config: Config, encoder: PairEncoder, cache: LexicalCache | None = None
) -> Retriever:
    """One retriever; words are indexed sparsely, with rank_bm25's scores, whatever `retrieval.lexical` says.

    Args:
        parts: at least one data set, with vectors of the encoder.
        config: of params.yaml.
        encoder: makes vectors of queries.
        cache: where its lexical indexes are while it is used; None makes them now, for good.

    Raises:
        LineageError: pair ids of two data sets overlap.
    """
    parts = in_order_of_ids(parts)
    method = Method.from_config(config.retrieval)
    names: tuple[LexicalName, ...] = ("bm25", "tf_idf") if method.weights["tf_idf"] else ("bm25",)
    make = partial(_lexical, parts, names)
    lexical = make() if cache is None else _lazy(cache, parts, names, make)
    return Retriever(
        StackedPairs(parts, config.corpus.image_size),
        StackedVectors.from_parts(parts),
        lexical,
        {name: StackedIndex([part.indexes[name] for part in parts]) for name in ("text_to_text", "text_to_image")},
        weights=method,
        embed=encoder.texts,
        embed_images=encoder.images,
    )


def _lexical(parts: Sequence[DataSet], names: Sequence[LexicalName]) -> dict[str, Lexical]:
    counts = TermCounts.merged([part.counts for part in parts])
    return {name: LexicalIndex(counts, name) if len(counts.terms) else NoWords(len(counts.lengths)) for name in names}


def _lazy(
    cache: LexicalCache, parts: Sequence[DataSet], names: Sequence[str], make: Callable[[], Mapping[str, Lexical]]
) -> dict[str, Lexical]:
    total, owner = sum(map(len, parts)), object()
    return {name: LazyLexical(name, total, partial(cache.get, owner, make)) for name in names}
