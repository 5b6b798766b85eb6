"""What exhaustive search finds, and the share of it that an index finds.

Shapes: N vectors, Q queries, D width, k hits.
"""

from __future__ import annotations

import numpy as np

from rag_diffusion.arrays import Floats
from rag_diffusion.retrieval.ann import Nearest, inner_products
from rag_diffusion.store.vectors import Rows

_BLOCK = 65536  # vectors compared at a time
_QUERIES = 256  # at a time
TIE = 1e-6  # inner products of unit vectors closer than this are a tie


class Truth:
    """The true nearest vectors of some queries, by exhaustive search in numpy.

    Measure recall with caption queries: they lie elsewhere than image vectors, and an index that serves these well can
    miss with those. A hit as good as the true k-th counts, so that equal vectors do not look like misses.

    Args:
        vectors: (N, D) unit vectors, in memory or mapped.
        queries: (Q, D) unit vectors.
        k: depth.

    Attributes:
        least: (Q, 1) inner product of each query with its true k-th.
    """

    def __init__(self, vectors: Rows, queries: Floats, k: int = 10) -> None:
        self.vectors, self.queries, self.depth = vectors, queries, min(k, len(vectors))
        best = np.full((len(queries), self.depth), -np.inf, dtype=np.float32)
        for start in range(0, len(vectors), _BLOCK):
            block = np.asarray(vectors[start : start + _BLOCK], dtype=np.float32)
            for first in range(0, len(queries), _QUERIES):
                part = slice(first, first + _QUERIES)
                scores = np.concatenate([best[part], queries[part] @ block.T], axis=1)
                best[part] = np.partition(scores, -self.depth, axis=1)[:, -self.depth :]
        self.least = best.min(axis=1, keepdims=True)

    def recall(self, index: Nearest) -> float:
        """Recall@k, in [0, 1], of an `index` over the same vectors."""
        matches = 0
        for first in range(0, len(self.queries), _QUERIES):
            part = slice(first, first + _QUERIES)
            rows = index.search(self.queries[part], self.depth)[1]
            scores = inner_products(self.queries[part], self.vectors, rows)
            matches += int((scores >= self.least[part] - TIE).sum())
        return matches / (len(self.queries) * self.depth)
