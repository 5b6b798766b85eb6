"""What a term is worth in a text and in a query: BM25 as rank_bm25 has it, and TF-IDF with the cosine.

Shapes: N texts, V terms, M entries of a `TermCounts` table, L terms of a query.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rag_diffusion.arrays import Doubles, Ints
from rag_diffusion.retrieval.counts import TermCounts

LexicalName = Literal["bm25", "tf_idf"]

K1, B, EPSILON = 1.5, 0.75, 0.25  # rank_bm25's defaults


@dataclass(frozen=True, kw_only=True)
class Weighting:
    """The score of a text is the sum over the query's terms of query weight times text weight.

    Attributes:
        idf: (V,) how much each term tells.
        weights: (M,) of the entries.
        cosine: whether queries are weighted by idf and brought to length one; else by their counts alone.
    """

    idf: Doubles
    weights: Doubles
    cosine: bool

    def of_query(self, columns: Ints, counts: Doubles) -> Doubles:
        """(L,) weights of a query's distinct terms `columns` (L,) from their `counts` in it (L,)."""
        if not self.cosine or not len(columns):
            return counts
        weights = counts * self.idf[columns]
        return np.asarray(weights / np.linalg.norm(weights), dtype=np.float64)


def weighting(counts: TermCounts, name: LexicalName) -> Weighting:
    """The weights of the similarity `name` for texts with these `counts`."""
    return bm25(counts) if name == "bm25" else tf_idf(counts)


def bm25(counts: TermCounts) -> Weighting:
    """BM25 of texts with these `counts`, with rank_bm25's idf.

    weight(t, d) = idf(t) tf (k1 + 1) / (tf + k1 (1 - b + b |d| / mean |d|)); idf(t) = ln(N - n + 1/2) - ln(n + 1/2),
    and where that is negative, .25 of the mean idf.

    Source: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), eq. 3.15, with the
    floor of the package rank_bm25 0.2.2 (`BM25Okapi`). The mean is summed in its order, so that all digits agree.
    """
    total, lengths = len(counts.lengths), counts.lengths
    raw = [math.log(total - n + 0.5) - math.log(n + 0.5) for n in counts.in_texts.tolist()]
    floor = EPSILON * (sum(raw) / len(raw))
    idf = np.asarray([floor if value < 0 else value for value in raw])
    length = lengths[counts.texts].astype(np.float64) / (int(lengths.sum(dtype=np.int64)) / total)
    tf = counts.counts.astype(np.float64)
    weights = np.repeat(idf, counts.in_texts) * (tf * (K1 + 1) / (tf + K1 * (1 - B + B * length)))
    return Weighting(idf=idf, weights=weights, cosine=False)


def tf_idf(counts: TermCounts) -> Weighting:
    """The cosine of queries and of texts with these `counts`, as vectors of tf idf.

    weight(t, d) = tf idf(t) / norm over the text's terms; idf(t) = ln((1 + N) / (1 + n)) + 1.

    Source: Salton and Buckley, "Term-weighting approaches in automatic text retrieval" (1988), `nfc` without the
    augmented tf; the smooth idf is scikit-learn's default.
    """
    idf = np.log((1 + len(counts.lengths)) / (1 + counts.in_texts)) + 1
    weights = counts.counts * np.repeat(idf, counts.in_texts)
    squares = np.bincount(counts.texts, weights=np.square(weights), minlength=len(counts.lengths))
    return Weighting(idf=idf, weights=weights / np.sqrt(squares)[counts.texts], cosine=True)
