"""Vectors and indexes of several data sets as one, in the rows of `Pairs`; nothing is copied.

Shapes: N pairs of all data sets, Q queries, D width, k hits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from rag_diffusion.arrays import Floats, Ints
from rag_diffusion.retrieval.ann import Nearest
from rag_diffusion.retrieval.side_by_side import side_by_side
from rag_diffusion.store.quantized import DECODED
from rag_diffusion.store.vectors import Rows

if TYPE_CHECKING:  # which has stacked indexes itself
    from rag_diffusion.retrieval.data_set import DataSet


class StackedRows:
    """(N, D) vectors of several tables, one after the other.

    Args:
        tables: (n, D) each.

    Attributes:
        tables: the same.
    """

    def __init__(self, tables: Sequence[Rows]) -> None:
        self.tables = tables
        self._starts = np.cumsum([0, *(len(table) for table in tables)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""
        return len(self), self.tables[0].shape[1]

    def __getitem__(self, rows: Ints | slice) -> Floats:
        """(m, D) of some rows."""
        if isinstance(rows, slice):
            rows = np.arange(len(self))[rows]
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        vectors = np.empty((len(rows), self.shape[1]), dtype=np.float32)
        for number in np.unique(numbers):
            own = numbers == number
            vectors[own] = self.tables[number][rows[own] - self._starts[number]]
        return vectors

    def __array__(self, dtype: object = None, copy: bool | None = None) -> Floats:
        """All of them: a single table where it lies, several in memory, for few rows."""
        tables = [np.asarray(table) for table in self.tables]
        return tables[0] if len(tables) == 1 else np.concatenate(tables)


def float32_blocks(rows: Rows) -> Iterator[Floats]:
    """All `rows` in turn: a table of float32 as it lies, of one in fewer bits a block at a time."""
    for table in rows.tables if isinstance(rows, StackedRows) else (rows,):
        if isinstance(table, np.ndarray):
            yield table
        else:
            yield from (table[start : start + DECODED] for start in range(0, len(table), DECODED))


@dataclass(frozen=True)
class StackedVectors:
    """Vectors of images and captions."""

    image: StackedRows
    text: StackedRows

    @classmethod
    def from_parts(cls, parts: Sequence[DataSet]) -> StackedVectors:
        """Those of the data sets `parts`."""
        return cls(
            StackedRows([part.vectors.image for part in parts]), StackedRows([part.vectors.text for part in parts])
        )


class StackedIndex:
    """Each index is asked, and the best of all come.

    Args:
        indexes: over n vectors each.
    """

    def __init__(self, indexes: Sequence[Nearest]) -> None:
        self._indexes = indexes
        self._starts = np.cumsum([0, *(len(index) for index in indexes)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def search(self, queries: Floats, k: int) -> tuple[Floats, Ints]:
        """See `VectorIndex.search` for `queries` and `k`; equal scores by row."""
        searches = [partial(index.search, queries, k) for index in self._indexes]
        return merged_hits(side_by_side(searches, len(queries)), self._starts, min(k, len(self)))


def merged_hits(results: Sequence[tuple[Floats, Ints]], starts: Sequence[int] | Ints, k: int) -> tuple[Floats, Ints]:
    """The best hits of several indexes over stretches of rows, those that one index over all rows would give.

    Args:
        results: scores (Q, k') and rows (Q, k') of each index, -1 where it found fewer; as `VectorIndex.search`.
        starts: row at which the stretch of each begins.
        k: hits wanted.

    Returns:
        Scores (Q, k) and rows (Q, k) of all, best first, equal scores by row.
    """
    if len(results) == 1 and not starts[0]:
        return results[0]
    scores = np.concatenate([np.where(rows < 0, -np.inf, scores) for scores, rows in results], axis=1)
    rows = np.concatenate(
        [np.where(rows < 0, -1, rows + start) for (_, rows), start in zip(results, starts, strict=False)],
        axis=1,
    )
    order = np.lexsort((rows, -scores), axis=-1)[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
