"""Rows of many tables on disk, in any order, a few at a time: memory does not grow with the tables.

Shapes: n rows gathered.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rag_diffusion.arrays import Ints
from rag_diffusion.store.staging import Part

_OPEN = 16  # parts mapped at a time


class Gathering:
    """The pairs of all parts by the order of their ids, each id once.

    Args:
        parts: on disk.

    Attributes:
        rows: (n, 2) part and row in it of each pair.
        twice: ids that came again, each as often as it did.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._mapped: OrderedDict[int, pa.Table] = OrderedDict()
        names = pa.chunked_array([_copied(part.table().column("pair_id")) for part in parts], pa.string())
        place = pa.array(np.arange(len(names)))
        keys = [("pair_id", "ascending"), ("place", "ascending")]
        order = pc.sort_indices(pa.table({"pair_id": names, "place": place}), sort_keys=keys).to_numpy()
        numbers = np.repeat(np.arange(len(parts)), [part.rows for part in parts])
        within = np.concatenate([np.empty(0, dtype=np.int64), *(np.arange(part.rows) for part in parts)])
        names = names.take(order)
        again = np.zeros(len(names), dtype=bool)
        again[1:] = pc.equal(names[1:], names[:-1]).to_numpy()
        self.rows: Ints = np.stack([numbers, within], axis=1)[order][~again]
        self.twice: list[str] = names.filter(pa.array(again)).to_pylist()

    def __len__(self) -> int:
        return len(self.rows)

    def blocks(self, size: int) -> list[Ints]:
        """The rows in blocks of `size`."""
        return [self.rows[start : start + size] for start in range(0, len(self.rows), size)]

    def table(self, rows: Ints, columns: Sequence[str] | None = None) -> pa.Table:
        """Some rows of the parts as one table, in their order.

        Args:
            rows: (n, 2) part and row in it.
            columns: those wanted; None is all.

        Returns:
            A table of as many rows.
        """
        order = np.argsort(rows[:, 0], kind="stable")
        tables = []
        for number in np.unique(rows[:, 0]):
            own = rows[order][rows[order][:, 0] == number, 1]
            table = self._table(int(number))
            tables.append((table if columns is None else table.select(columns)).take(pa.array(own)))
        back = np.empty(len(order), dtype=np.int64)
        back[order] = np.arange(len(order))
        return pa.concat_tables(tables).take(pa.array(back))

    def _table(self, number: int) -> pa.Table:
        if number not in self._mapped:
            self._mapped[number] = self._parts[number].table()
            if len(self._mapped) > _OPEN:
                self._mapped.popitem(last=False)
        self._mapped.move_to_end(number)
        return self._mapped[number]


def _copied(column: pa.ChunkedArray) -> pa.Array:
    """A column of its own memory, so that the file it came from can be let go."""
    return pa.concat_arrays([*column.chunks, pa.array([], column.type)])
