"""Hits of a coarse index, scored exactly by the vectors where they lie: in memory, or mapped from a file.

Codes of a few bits rank well enough to offer candidates, not to order them. The vectors are on disk in any case, so the
index need not hold them.

Shapes: N vectors, Q queries, D width, k hits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rag_diffusion.arrays import Floats, Ints
from rag_diffusion.retrieval.ann import Exhaustive, SearchIndex, inner_products
from rag_diffusion.store.vectors import Rows

_CANDIDATES = (10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 1500, 2000)
_AT_LEAST = 2  # candidates for each hit that is asked for
_MOST = 8  # candidates are at most an eighth of the vectors: more of them cost more than looking at all


class Rescored:
    """A coarse index whose hits are scored again.

    Args:
        coarse: over `vectors`.
        vectors: (N, D) unit vectors.
    """

    def __init__(self, coarse: SearchIndex, vectors: Rows) -> None:
        self._coarse, self._vectors = coarse, vectors
        self._candidates = _CANDIDATES[0]

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def width(self) -> int:
        """D."""
        return self._coarse.width

    def parameters(self) -> dict[str, list[int]]:
        """See `SearchIndex.parameters`; `candidates` is how many hits of the coarse index are scored again."""
        return self._coarse.parameters() | {"candidates": list(_CANDIDATES)}

    def use(self, point: Mapping[str, int]) -> None:
        """See `SearchIndex.use` for `point`."""
        rest = dict(point)
        self._candidates = rest.pop("candidates")
        self._coarse.use(rest)

    def save(self, path: Path) -> None:
        """Write the coarse index to the file `path`."""
        self._coarse.save(path)

    def search(self, queries: Floats, k: int) -> tuple[Floats, Ints]:
        """See `VectorIndex.search` for `queries` and `k`; the scores are exact.

        Where so many are asked for that nearly all vectors would be candidates, all are looked at.
        """
        k = min(k, len(self))
        count = max(self._candidates, _AT_LEAST * k)
        if count * _MOST > len(self):
            return Exhaustive(self._vectors).search(queries, k)
        rows = self._coarse.search(queries, count)[1]
        scores = inner_products(queries, self._vectors, rows)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
