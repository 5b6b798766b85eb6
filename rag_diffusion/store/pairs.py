"""Pairs of one or several data sets as one table: rows follow each other in the order of pair ids; nothing is copied.

Of a data set of several segments, rows are in the order of pair ids within each segment.

Shapes: N pairs of all data sets, H/W image.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from threading import Lock
from typing import TypeVar

import numpy as np
import pyarrow as pa
from PIL import Image

from rag_diffusion.arrays import Ints, Mask, Pixels, Strings
from rag_diffusion.errors import LineageError
from rag_diffusion.readers.images import to_square
from rag_diffusion.store.filters import Filter
from rag_diffusion.store.originals import Original
from rag_diffusion.store.pair_set import PairSet
from rag_diffusion.store.segments import hash_together
from rag_diffusion.types import DataSetVersion, Pair

Part = TypeVar("Part", bound=PairSet)

_MASKS = 16  # filters whose masks are kept


class Pairs:
    """Read-only pairs, sorted by pair id; a row number stands for a pair.

    Args:
        parts: data sets, or segments of such, in the order of their pair ids, as `in_order_of_ids` gives them.
        image_size: side of what `pixels` gives, in pixels.

    Attributes:
        starts: first row of each data set, and N.
    """

    def __init__(self, parts: Sequence[PairSet], image_size: int) -> None:
        self.parts = parts
        self.image_size = image_size
        self.starts: Ints = np.cumsum([0, *(len(part) for part in parts)])
        self._ends = [(part.columns.cell("pair_id", 0), part.columns.cell("pair_id", len(part) - 1)) for part in parts]
        self._read: dict[str, Strings] = {}
        self._masks: dict[Filter, Mask] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def hash(self) -> str:
        """Of all data sets together; that of the only one where there is one."""
        if len(self.versions) == 1:
            return self.versions[0].hash
        return hashlib.sha256("".join(f"{own.name} {own.hash}\n" for own in self.versions).encode()).hexdigest()

    @property
    def versions(self) -> tuple[DataSetVersion, ...]:
        """Of each data set, by the alphabet."""
        named: dict[str, list[DataSetVersion]] = {}
        for part in sorted(self.parts, key=lambda part: part.name):
            named.setdefault(part.name, []).append(part.manifest.version)
        return tuple(own[0] if len(own) == 1 else _whole(own) for own in named.values())

    @property
    def style_words(self) -> Mapping[str, str]:
        """Style -> how a text names it, where that is not its own name."""
        return {style: words for part in self.parts for style, words in part.manifest.style_words.items()}

    def style_named_in(self, text: str) -> str | None:
        """The style whose words stand in `text`, the longest where several do; None where none does."""
        words = [*((name, name) for name in np.unique(self.column("style")).tolist()), *self.style_words.items()]
        named = [(len(said), style) for style, said in words if said and said.lower() in text.lower()]
        return max(named)[1] if named else None

    def find(self, pair_id: str) -> int | None:
        """Row of `pair_id`; None where there is no such pair."""
        for number, (first, last) in enumerate(self._ends):
            if first <= pair_id <= last:
                row = self.parts[number].columns.find(pair_id)
                if row is not None:
                    return int(self.starts[number]) + row
        return None

    def row(self, pair_id: str) -> int:
        """Row of `pair_id`.

        Raises:
            LineageError: there is no such pair.
        """
        row = self.find(pair_id)
        if row is None:
            raise LineageError(
                f"expected a pair {pair_id!r}, found none in the data sets "
                f"{', '.join(f'{own.name} ({own.hash[:12]})' for own in self.versions)}; it was removed, "
                "replaced, or is of another one: see `rag-diffusion kb list`, or run `dvc repro`"
            )
        return row

    def rows(self, pair_ids: Iterable[str]) -> Ints:
        """Row of each of `pair_ids`.

        Raises:
            LineageError: there is no such pair as one of them.
        """
        return np.fromiter((self.row(pair_id) for pair_id in pair_ids), dtype=np.int64)

    def ids(self, rows: Ints) -> list[str]:
        """Pair ids of `rows`."""
        return self.cells("pair_id", rows)

    def cells(self, column: str, rows: Ints) -> list[str]:
        """Values of a `column`, a text field of `Pair`, at `rows`."""
        if column in self._read:
            values: list[str] = self._read[column][rows].tolist()
            return values
        return [self.parts[number].columns.cell(column, row) for number, row in self.places(rows)]

    def column(self, name: str) -> Strings:
        """(N,) values of the column `name`, a text field of `Pair`; kept in memory, and not to be written to."""
        if name not in self._read:
            self._read[name] = self._arrow(name).to_numpy()
        return self._read[name]

    def numbered(self, column: str) -> Ints:
        """(N,) a number for each different value of a `column`, in the order of their first appearance."""
        codes = self._arrow(column).combine_chunks().dictionary_encode().indices
        return np.asarray(codes, dtype=np.int64)

    def pixels(self, rows: Ints) -> Pixels:
        """(n, H, W, 3) RGB of `rows`, `image_size` on each side."""
        pixels = np.empty((len(rows), self.image_size, self.image_size, 3), dtype=np.uint8)
        for place, content in enumerate(self.images(rows)):
            with Image.open(io.BytesIO(content)) as image:
                pixels[place] = np.asarray(to_square(image.convert("RGB"), self.image_size))
        return pixels

    def images(self, rows: Ints) -> list[bytes]:
        """PNG files of `rows`, as they were stored."""
        return [self.parts[number].images.image(row) for number, row in self.places(rows)]

    def pair(self, pair_id: str) -> Pair:
        """The whole pair of `pair_id`; without its original where this lies beside the pairs.

        Raises:
            LineageError: there is no such pair.
        """
        ((number, row),) = self.places(self.rows([pair_id]))
        return self.parts[number].pair(row)

    def original(self, row: int) -> Original | None:
        """What the image of `row` was made of, opened; None where it is not kept."""
        ((number, own),) = self.places(np.asarray([row]))
        return self.parts[number].original(own)

    def mask(self, where: Filter | None) -> Mask | None:
        """(N,) which rows pass the filter `where`; None where all do."""
        if not where:
            return None
        with self._lock:
            if where not in self._masks:
                if len(self._masks) == _MASKS:
                    self._masks.pop(next(iter(self._masks)))
                own = [where.mask(part.name, part.columns.table) for part in self.parts]
                self._masks[where] = np.concatenate(own)
            return self._masks[where]

    def places(self, rows: Ints) -> list[tuple[int, int]]:
        """Number of the data set, and row in it, of each of `rows`."""
        numbers = np.searchsorted(self.starts, rows, side="right") - 1
        return list(zip(numbers.tolist(), (np.asarray(rows) - self.starts[numbers]).tolist(), strict=True))

    def _arrow(self, column: str) -> pa.ChunkedArray:
        columns = [part.columns.table.column(column).cast(pa.string()) for part in self.parts]
        return pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())


def _whole(segments: Sequence[DataSetVersion]) -> DataSetVersion:
    """The version of a data set whose segments are of these."""
    return replace(
        segments[0],
        hash=hash_together(own.hash for own in segments),
        num_pairs=sum(own.num_pairs for own in segments),
    )


def in_order_of_ids(parts: Iterable[Part]) -> list[Part]:
    """`parts` so that all pair ids rise from the first row of the first to the last row of the last.

    Those of one name are segments of one data set, whose ids may lie among each other.

    Raises:
        LineageError: the ids of two overlap.
    """
    ordered = sorted(parts, key=lambda part: part.columns.cell("pair_id", 0))
    for low, high in pairwise(ordered):
        overlap = low.columns.cell("pair_id", len(low) - 1) >= high.columns.cell("pair_id", 0)
        if overlap and low.name != high.name:
            raise LineageError(
                f"kb: expected data sets whose pair ids begin differently, got {low.name!r} and {high.name!r}; add one "
                "of them under another name"
            )
    return ordered
