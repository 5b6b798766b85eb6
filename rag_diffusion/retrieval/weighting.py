"""What a term is worth in a text and in a query: BM25 as rank_bm25 has it, and TF-IDF with the cosine.

A term is weighted when it is asked for: texts that come in change what every weight is, and few terms are asked for.

Shapes: N texts, m texts with a term, L terms of a query.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from rag_diffusion.arrays import Doubles, Ints
from rag_diffusion.retrieval.counts import StackedCounts

LexicalName = Literal["bm25", "tf_idf"]

K1, B, EPSILON = 1.5, 0.75, 0.25  # rank_bm25's defaults


class Weighting(Protocol):
    """The score of a text is the sum over the query's terms of query weight times text weight, divided by `norm`."""

    def idf(self, term: str) -> float:
        """How much a `term` that stands in a text tells."""
        ...

    def weights(self, term: str) -> tuple[NDArray[np.int32], Doubles]:
        """(m,) texts in which a `term` stands, rising, and (m,) its weight in each."""
        ...

    def of_query(self, terms: Sequence[str], counts: Doubles) -> Doubles:
        """(L,) weights of a query's distinct `terms` from their `counts` (L,) in it; none depends on the others."""
        ...

    def norm(self, weights: Doubles) -> float:
        """What the scores of a query with these (L,) `weights` are divided by."""
        ...


def weighting(counts: StackedCounts, name: LexicalName) -> Weighting:
    """The weights of the similarity `name` for texts with these `counts`."""
    return Bm25(counts) if name == "bm25" else TfIdf(counts)


class Bm25:
    """BM25 with rank_bm25's idf.

    weight(t, d) = idf(t) tf (k1 + 1) / (tf + k1 (1 - b + b |d| / mean |d|)); idf(t) = ln(N - n + 1/2) - ln(n + 1/2),
    and where that is negative, .25 of the mean idf.

    Source: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), eq. 3.15, with the
    floor of the package rank_bm25 0.2.2 (`BM25Okapi`). The mean is summed in its order, so that all digits agree.

    Args:
        counts: of the texts.
    """

    def __init__(self, counts: StackedCounts) -> None:
        self._counts = counts

    def idf(self, term: str) -> float:
        """See `Weighting.idf` for `term`."""
        raw = self._raw(self._counts.in_texts(term))
        return self._floor if raw < 0 else raw

    def weights(self, term: str) -> tuple[NDArray[np.int32], Doubles]:
        """See `Weighting.weights` for `term`."""
        texts, counts = self._counts.entries(term)
        length = self._counts.lengths(texts).astype(np.float64) / (self._counts.num_words / self._counts.total)
        tf = counts.astype(np.float64)
        return texts, self.idf(term) * (tf * (K1 + 1) / (tf + K1 * (1 - B + B * length)))

    def of_query(self, terms: Sequence[str], counts: Doubles) -> Doubles:
        """See `Weighting.of_query` for `terms` and `counts`: as often as they stand there."""
        return counts

    def norm(self, weights: Doubles) -> float:
        """See `Weighting.norm` for `weights`."""
        return 1.0

    def _raw(self, in_texts: int) -> float:
        return math.log(self._counts.total - in_texts + 0.5) - math.log(in_texts + 0.5)

    @cached_property
    def _floor(self) -> float:
        sizes = self._counts.vocabulary.values()
        return EPSILON * (sum(map(self._raw, sizes)) / len(sizes))


class TfIdf:
    """The cosine of queries and texts as vectors of tf idf.

    weight(t, d) = tf idf(t) / norm over the text's terms; idf(t) = ln((1 + N) / (1 + n)) + 1.

    Source: Salton and Buckley, "Term-weighting approaches in automatic text retrieval" (1988), `nfc` without the
    augmented tf; the smooth idf is scikit-learn's default.

    Args:
        counts: of the texts.
    """

    def __init__(self, counts: StackedCounts) -> None:
        self._counts = counts

    def idf(self, term: str) -> float:
        """See `Weighting.idf` for `term`."""
        return float(self._idf(np.asarray([self._counts.in_texts(term)]))[0])

    def weights(self, term: str) -> tuple[NDArray[np.int32], Doubles]:
        """See `Weighting.weights` for `term`; the first time every text's norm is made."""
        texts, counts = self._counts.entries(term)
        return texts, counts * self.idf(term) / self._norms[texts]

    def of_query(self, terms: Sequence[str], counts: Doubles) -> Doubles:
        """See `Weighting.of_query` for `terms` and `counts`."""
        return counts * np.asarray([self.idf(term) for term in terms], dtype=np.float64)

    def norm(self, weights: Doubles) -> float:
        """See `Weighting.norm` for `weights`: their length."""
        return float(np.linalg.norm(weights)) or 1.0

    def _idf(self, in_texts: Ints) -> Doubles:
        return np.asarray(np.log((1 + self._counts.total) / (1 + in_texts)) + 1, dtype=np.float64)

    @cached_property
    def _norms(self) -> Doubles:
        sizes = self._counts.vocabulary

        def squares(terms: Sequence[str], counts: NDArray[np.int32], own: Ints) -> Doubles:
            idf = self._idf(np.fromiter(map(sizes.__getitem__, terms), dtype=np.int64, count=len(terms)))
            return np.square(counts * np.repeat(idf, own))

        return np.asarray(np.sqrt(self._counts.summed(squares)), dtype=np.float64)
