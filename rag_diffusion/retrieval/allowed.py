"""Which rows may come: a filter that all queries share, and each query's own exclusions.

Shapes: N rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rag_diffusion.arrays import Ints, Mask


class Allowed:
    """Rows that may come for one query; costs its exclusions, not N.

    Args:
        total: N.
        within: (N,) rows that may come at all; None allows all. Shared, not copied.
        exclude: rows that must not come.
    """

    def __init__(self, total: int, within: Mask | None = None, exclude: Ints | None = None) -> None:
        self.total = total
        self._within = within
        self._exclude = np.unique(exclude) if exclude is not None and len(exclude) else np.empty(0, dtype=np.int64)

    def mask(self, rows: NDArray[np.integer]) -> Mask:
        """(R,) which of R `rows` may come."""
        mask = np.ones(len(rows), dtype=bool) if self._within is None else self._within[rows]
        if len(self._exclude) and len(rows):
            place = np.minimum(np.searchsorted(self._exclude, rows), len(self._exclude) - 1)
            mask = mask & (self._exclude[place] != rows)
        return mask

    def count(self, within: int) -> int:
        """How many may come, where the shared filter lets `within` through."""
        own = self._exclude if self._within is None else self._exclude[self._within[self._exclude]]
        return within - len(own)

    def rows(self) -> Ints:
        """All that may come, rising."""
        every = np.arange(self.total) if self._within is None else np.flatnonzero(self._within)
        return every[self.mask(every)]

    def first(self, count: int, without: Ints) -> Ints:
        """The lowest `count` rows that may come and are none of `without`."""
        rows, start = np.empty(0, dtype=np.int64), 0
        while len(rows) < count and start < self.total:
            part = np.arange(start, min(self.total, start + 2 * count + len(self._exclude) + len(without) + 64))
            start = int(part[-1]) + 1
            part = part[self.mask(part)]
            rows = np.concatenate([rows, part[~np.isin(part, without)]])
        return rows[:count]
