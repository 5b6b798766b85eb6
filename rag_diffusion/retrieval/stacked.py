"""Several data sets as one: rows follow each other in the order of pair ids, and nothing is copied.

Shapes: N pairs of all data sets, Q queries, D width, k hits.
"""

from __future__ import annotations

import hashlib
import io
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from rag_diffusion.arrays import Floats, Ints, Mask, Pixels
from rag_diffusion.errors import LineageError
from rag_diffusion.readers.images import to_square
from rag_diffusion.retrieval.ann import Nearest
from rag_diffusion.retrieval.data_set import DataSet
from rag_diffusion.store.filters import Filter
from rag_diffusion.store.originals import Original
from rag_diffusion.types import DataSetVersion, Pair

_MASKS = 16  # filters whose masks are kept


class StackedPairs:
    """The pairs of several data sets; see `rag_diffusion.store.pairs.Pairs`.

    Args:
        parts: data sets in the order of their pair ids, as `in_order_of_ids` gives them.
        image_size: side of what `pixels` gives.
    """

    def __init__(self, parts: Sequence[DataSet], image_size: int) -> None:
        self.parts = parts
        self.image_size = image_size
        self.starts: Ints = np.cumsum([0, *(len(part) for part in parts)])
        self._first = [part.columns.cell("pair_id", 0) for part in parts]
        self._masks: dict[Filter, Mask] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def hash(self) -> str:
        """Of all data sets together; that of the only one where there is one."""
        if len(self.parts) == 1:
            return self.parts[0].manifest.hash
        told = sorted((part.name, part.manifest.hash) for part in self.parts)
        return hashlib.sha256("".join(f"{name} {own}\n" for name, own in told).encode()).hexdigest()

    @property
    def versions(self) -> tuple[DataSetVersion, ...]:
        """Of each data set, by the alphabet."""
        return tuple(sorted((part.manifest.version for part in self.parts), key=lambda one: one.name))

    @property
    def style_words(self) -> dict[str, str]:
        """See `Pairs`."""
        return {style: words for part in self.parts for style, words in part.manifest.style_words.items()}

    def find(self, pair_id: str) -> int | None:
        """Row of a pair, if it is there."""
        number = bisect_right(self._first, pair_id) - 1
        row = self.parts[number].columns.find(pair_id) if number >= 0 else None
        return None if row is None else int(self.starts[number]) + row

    def rows(self, pair_ids: Iterable[str]) -> Ints:
        """Row numbers of several pairs.

        Raises:
            LineageError: there is no such pair.
        """
        return np.fromiter((self._row(pair_id) for pair_id in pair_ids), dtype=np.int64)

    def ids(self, rows: Ints) -> list[str]:
        """Pair ids of rows."""
        return self.cells("pair_id", rows)

    def cells(self, column: str, rows: Ints) -> list[str]:
        """What stands in a column at some rows."""
        return [self.parts[number].columns.cell(column, row) for number, row in self.places(rows)]

    def groups(self) -> Ints:
        """(N,) numbers; rows with the same one are near-duplicates."""
        return self._groups

    def pixels(self, rows: Ints) -> Pixels:
        """(n, H, W, 3) RGB of rows, `image_size` on each side."""
        found = np.empty((len(rows), self.image_size, self.image_size, 3), dtype=np.uint8)
        for place, content in enumerate(self.images(rows)):
            with Image.open(io.BytesIO(content)) as image:
                found[place] = np.asarray(to_square(image.convert("RGB"), self.image_size))
        return found

    def images(self, rows: Ints) -> list[bytes]:
        """PNG files of rows, as they were stored."""
        return [self.parts[number].shards.image(row) for number, row in self.places(rows)]

    def pair(self, pair_id: str) -> Pair:
        """One whole pair.

        Raises:
            LineageError: there is no such pair.
        """
        ((number, row),) = self.places(self.rows([pair_id]))
        return self.parts[number].pair(row)

    def original(self, row: int) -> Original | None:
        """What the image of a row was made of, opened; None where it is not kept."""
        ((number, own),) = self.places(np.asarray([row]))
        return self.parts[number].original(own)

    def mask(self, where: Filter | None) -> Mask | None:
        """(N,) which rows pass a filter; None where all do."""
        if not where:
            return None
        with self._lock:
            if where not in self._masks:
                if len(self._masks) == _MASKS:
                    self._masks.pop(next(iter(self._masks)))
                found = [where.mask(part.name, part.columns.table) for part in self.parts]
                self._masks[where] = np.concatenate(found)
            return self._masks[where]

    def places(self, rows: Ints) -> list[tuple[int, int]]:
        """Data set, and row in it, of each row."""
        numbers = np.searchsorted(self.starts, rows, side="right") - 1
        return list(zip(numbers.tolist(), (np.asarray(rows) - self.starts[numbers]).tolist(), strict=True))

    def _row(self, pair_id: str) -> int:
        row = self.find(pair_id)
        if row is None:
            raise LineageError(
                f"kb: expected a pair {pair_id!r}, found none in the data sets "
                f"{', '.join(part.name for part in self.parts)}; it was removed, replaced, or is of another one: see "
                "`rag-diffusion kb list`"
            )
        return row

    @cached_property
    def _groups(self) -> Ints:
        chunks = [chunk for part in self.parts for chunk in part.columns.table.column("duplicate_group").chunks]
        coded = pc.dictionary_encode(pa.chunked_array(chunks, pa.string()))
        return np.concatenate([chunk.indices.to_numpy() for chunk in coded.chunks]).astype(np.int64)


def in_order_of_ids(parts: Iterable[DataSet]) -> list[DataSet]:
    """Data sets so that all pair ids rise from the first row of the first to the last row of the last.

    Raises:
        LineageError: the ids of two overlap.
    """
    found = sorted(parts, key=lambda part: part.columns.cell("pair_id", 0))
    for low, high in pairwise(found):
        if low.columns.cell("pair_id", len(low) - 1) >= high.columns.cell("pair_id", 0):
            raise LineageError(
                f"kb: expected data sets whose pair ids begin differently, got {low.name!r} and {high.name!r}; add one "
                "of them under another name"
            )
    return found


class StackedRows:
    """(N, D) vectors of several tables, one after the other.

    Args:
        tables: (n, D) each.
    """

    def __init__(self, tables: Sequence[Floats]) -> None:
        self._tables = tables
        self._starts = np.cumsum([0, *(len(table) for table in tables)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, rows: Ints | slice) -> Floats:
        """(m, D) of some rows."""
        if isinstance(rows, slice):
            rows = np.arange(len(self))[rows]
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        found = np.empty((len(rows), self._tables[0].shape[1]), dtype=np.float32)
        for number in np.unique(numbers):
            own = numbers == number
            found[own] = self._tables[number][rows[own] - self._starts[number]]
        return found

    def __array__(self, dtype: object = None, copy: bool | None = None) -> Floats:
        """All of them: a single table where it lies, several in memory, for few rows."""
        return self._tables[0] if len(self._tables) == 1 else np.concatenate(self._tables)


@dataclass(frozen=True)
class StackedVectors:
    """Vectors of images and captions."""

    image: StackedRows
    text: StackedRows

    @classmethod
    def from_parts(cls, parts: Sequence[DataSet]) -> StackedVectors:
        """Those of data sets."""
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
        """See `VectorIndex.search`; equal scores by row."""
        found = [index.search(queries, k) for index in self._indexes]
        if len(found) == 1:
            return found[0]
        scores = np.concatenate([np.where(rows < 0, -np.inf, scores) for scores, rows in found], axis=1)
        rows = np.concatenate(
            [np.where(rows < 0, -1, rows + start) for (_, rows), start in zip(found, self._starts, strict=False)],
            axis=1,
        )
        order = np.lexsort((rows, -scores), axis=-1)[:, : min(k, len(self))]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
