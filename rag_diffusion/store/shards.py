"""Images of pairs, read from parquet shards where they lie; a few stretches are kept."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rag_diffusion.errors import DataError

_FILES, _STRETCHES = 16, 32  # parsed ones, stretches in memory
_HELD = 256  # files held open from the start: they can be read even when the data set was replaced or removed


class Shards:
    """Shards of one data set.

    Args:
        folder: where they lie.
        shards: their names and rows, in order, as a manifest has them.
        remedy: what to do where one is gone or damaged.
    """

    def __init__(self, folder: Path, shards: Sequence[Mapping[str, Any]], *, remedy: str) -> None:
        self._folder, self._remedy = folder, remedy
        self._names = [str(shard["name"]) for shard in shards]
        self._starts = [0, *accumulate(int(shard["rows"]) for shard in shards)]
        self._files: OrderedDict[int, tuple[pq.ParquetFile, list[int]]] = OrderedDict()
        self._stretches: OrderedDict[tuple[int, int], tuple[pa.ChunkedArray, pa.ChunkedArray]] = OrderedDict()
        self._lock = Lock()
        try:
            self._held = [(folder / name).open("rb") for name in self._names[:_HELD]]
        except OSError as error:
            raise DataError(f"{folder}: expected a shard of pairs, got {error}; {remedy}") from None

    def __del__(self) -> None:
        for file in getattr(self, "_held", ()):
            file.close()

    def image(self, row: int) -> bytes:
        """The image file of a pair."""
        return self._cells(row)[0]  # type: ignore[return-value]

    def both(self, row: int) -> tuple[bytes, bytes | None]:
        """The image file of a pair, and what it was rendered from, if anything."""
        image, original = self._cells(row)
        assert image is not None
        return image, original

    def _cells(self, row: int) -> tuple[bytes | None, bytes | None]:
        number = bisect_right(self._starts, row) - 1
        within = row - self._starts[number]
        with self._lock:
            try:
                groups = self._open(number)[1]
                group = bisect_right(groups, within) - 1
                image, original = self._stretch(number, group)
            except (OSError, pa.ArrowException, IndexError) as error:
                raise DataError(
                    f"{self._folder / self._names[number]}: expected a shard of pairs, got {error}; the data set was "
                    f"replaced or removed while it was read, or is damaged: open it again, or {self._remedy}"
                ) from None
        return image[within - groups[group]].as_py(), original[within - groups[group]].as_py()

    def _open(self, number: int) -> tuple[pq.ParquetFile, list[int]]:
        """A shard's file, and where its row groups begin."""
        if number not in self._files:
            held = self._held[number] if number < len(self._held) else self._folder / self._names[number]
            file = pq.ParquetFile(held)
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            self._files[number] = (file, [0, *accumulate(sizes)][:-1])
            if len(self._files) > _FILES:
                self._files.popitem(last=False)  # a held file stays open
        self._files.move_to_end(number)
        return self._files[number]

    def _stretch(self, number: int, group: int) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
        key = number, group
        if key not in self._stretches:
            table = self._open(number)[0].read_row_group(group, columns=["image", "original"])
            self._stretches[key] = table.column("image"), table.column("original")
            if len(self._stretches) > _STRETCHES:
                self._stretches.popitem(last=False)
        self._stretches.move_to_end(key)
        return self._stretches[key]
