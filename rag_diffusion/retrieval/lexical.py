"""Lexical similarity of texts: BM25 or TF-IDF over sparse counts; `rank_bm25` itself for small corpora.

Shapes: N texts, k hits, R rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rank_bm25 import BM25Okapi

from rag_diffusion.arrays import Doubles, Ints
from rag_diffusion.errors import DataError
from rag_diffusion.retrieval.counts import StackedCounts, TermCounts
from rag_diffusion.retrieval.postings import DECIMALS, Postings, RowFilter
from rag_diffusion.retrieval.tokens import tokenize
from rag_diffusion.retrieval.weighting import LexicalName, weighting


class Lexical(Protocol):
    """What ranks texts by the words that they share with a query."""

    def __len__(self) -> int: ...

    def top(self, query: str, k: int, row_filter: RowFilter | None = None) -> tuple[Ints, Doubles]:
        """The best texts, best first, ties by number.

        Args:
            query: a text.
            k: texts wanted.
            row_filter: which of some texts may come; None lets all come.

        Returns:
            Numbers and scores of at most k texts, each score above zero.
        """

    def at(self, query: str, rows: NDArray[np.integer]) -> Doubles:
        """(R,) scores for `query` of the texts whose numbers are `rows`, which rise."""

    def explain(self, query: str) -> dict[str, float]:
        """The terms of `query` that the index knows, with their idf."""


class LexicalIndex:
    """A sparse, term-major index; a query costs its rare terms' entries, the first with a term the term's once more.

    Args:
        counts: of the texts; of several tables, those of each after those of the one before. Nothing is copied.
        name: the similarity.
    """

    def __init__(self, counts: TermCounts | Sequence[TermCounts], name: LexicalName = "bm25") -> None:
        self._counts = StackedCounts([counts] if isinstance(counts, TermCounts) else counts)
        self._weighting = weighting(self._counts, name)
        self._postings = Postings(self._weighting.weights, self._counts.total)

    def __len__(self) -> int:
        return self._counts.total

    @classmethod
    def build(cls, texts: Iterable[str], name: LexicalName = "bm25") -> LexicalIndex:
        """Index `texts`, which are read once, for the similarity `name`.

        Raises:
            DataError: there are no words at all.
        """
        return cls(TermCounts.from_texts(texts), name)

    def top(self, query: str, k: int, row_filter: RowFilter | None = None) -> tuple[Ints, Doubles]:
        """See `Lexical.top`.

        Args:
            query: a text.
            k: texts wanted.
            row_filter: which of some texts may come; None lets all come.
        """
        terms, weights = self._terms(query)
        rows, scores = self._postings.top(terms, weights, k, row_filter)
        return rows, scores / self._weighting.norm(weights)

    def at(self, query: str, rows: NDArray[np.integer]) -> Doubles:
        """See `Lexical.at` for `query` and `rows`."""
        terms, weights = self._terms(query)
        return self._postings.at(terms, weights, rows) / self._weighting.norm(weights)

    def scores(self, queries: Sequence[str]) -> Doubles:
        """(Q, N) scores of all texts for each of Q `queries`; for small N."""
        every = np.arange(len(self))
        return np.stack([self.at(query, every) for query in queries])

    def explain(self, query: str) -> dict[str, float]:
        """See `Lexical.explain` for `query`."""
        return {term: self._weighting.idf(term) for term in sorted(self._terms(query)[0])}

    def _terms(self, query: str) -> tuple[list[str], Doubles]:
        """Distinct known terms of a query, frequent ones first, then by the alphabet; and their weights in it."""
        counted: dict[str, int] = {}
        for term in tokenize(query):
            if self._postings.size(term):
                counted[term] = counted.get(term, 0) + 1
        frequent = self._postings.frequent
        terms = sorted(counted, key=lambda term: (term not in frequent, term))
        counts = np.asarray([counted[term] for term in terms], dtype=np.float64)
        return terms, self._weighting.of_query(terms, counts)


class NoWords:
    """Where no text has any word: nothing is shared.

    Args:
        total: N.
    """

    def __init__(self, total: int) -> None:
        self._total = total

    def __len__(self) -> int:
        return self._total

    def top(self, query: str, k: int, row_filter: RowFilter | None = None) -> tuple[Ints, Doubles]:
        """See `Lexical.top`.

        Args:
            query: a text.
            k: texts wanted.
            row_filter: which of some texts may come; None lets all come.
        """
        return np.empty(0, dtype=np.int64), np.empty(0)

    def at(self, query: str, rows: NDArray[np.integer]) -> Doubles:
        """See `Lexical.at` for `query` and `rows`."""
        return np.zeros(len(rows))

    def explain(self, query: str) -> dict[str, float]:
        """See `Lexical.explain` for `query`."""
        return {}


class RankBm25:
    """The package rank_bm25 itself: the reference, and a choice for small corpora.

    It scans every text in Python for every query, about a second for a million of them, and keeps all words in memory.

    Args:
        texts: N texts.

    Raises:
        DataError: there are no words at all.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        documents = [tokenize(text) for text in texts]
        if not any(documents):
            raise DataError(f"BM25: expected captions with words, got {len(documents)} without any; check the captions")
        self._model = BM25Okapi(documents)

    def __len__(self) -> int:
        return int(self._model.corpus_size)

    def top(self, query: str, k: int, row_filter: RowFilter | None = None) -> tuple[Ints, Doubles]:
        """See `Lexical.top`.

        Args:
            query: a text.
            k: texts wanted.
            row_filter: which of some texts may come; None lets all come.
        """
        scores = np.asarray(self._model.get_scores(tokenize(query)), dtype=np.float64)
        rows = np.flatnonzero(scores > 0)
        if row_filter is not None:
            rows = rows[row_filter(rows)]
        rows = rows[np.lexsort((rows, -np.round(scores[rows], DECIMALS)))][:k]
        return rows, scores[rows]

    def at(self, query: str, rows: NDArray[np.integer]) -> Doubles:
        """See `Lexical.at` for `query` and `rows`."""
        scores: Doubles = np.asarray(self._model.get_scores(tokenize(query)), dtype=np.float64)[rows]
        return scores

    def explain(self, query: str) -> dict[str, float]:
        """See `Lexical.explain` for `query`."""
        return {term: float(self._model.idf[term]) for term in sorted(set(tokenize(query))) if term in self._model.idf}
