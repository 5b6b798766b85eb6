"""Parquet shards of pairs: how they are written and checked, and images read where they lie, a few stretches kept."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rag_diffusion.errors import DataError
from rag_diffusion.files import file_hash
from rag_diffusion.types import Pair

BYTES = ("image", "original")
COLUMNS = tuple(field.name for field in fields(Pair))
SCHEMA = pa.schema([(name, pa.binary() if name in BYTES else pa.string()) for name in COLUMNS])
TEXT_COLUMNS = tuple(name for name in COLUMNS if name not in BYTES)
CODED = ("source", "category", "style", "licence", "attribution", "split")  # columns of few distinct values
_CODED = pa.dictionary(pa.int32(), pa.string())
TEXT_SCHEMA = pa.schema([(name, _CODED if name in CODED else pa.string()) for name in TEXT_COLUMNS])  # in memory
SHARD_ROWS = 2048
_FILES, _STRETCHES = 128, 32  # parsed ones, stretches in memory
_HELD = 256  # files held open from the start: they can be read even when the data set was replaced or removed


def write_shard(path: Path, tables: Iterable[pa.Table], **options: Any) -> dict[str, Any]:
    """Write tables of pairs as one shard, each as a row group of its own; the same ones give the same bytes.

    Args:
        path: the file.
        tables: with the columns of `SCHEMA`.
        **options: of pyarrow's `ParquetWriter`, as `compression`.

    Returns:
        What a manifest says of it: name, rows, bytes and sha256.
    """
    rows = 0
    with pq.ParquetWriter(path, SCHEMA, **options) as writer:
        for table in tables:
            writer.write_table(table)
            rows += table.num_rows
    return {"name": path.name, "rows": rows, "bytes": path.stat().st_size, "sha256": file_hash(path)}


def hash_of_shards(shards: Iterable[Mapping[str, Any]]) -> str:
    """sha256 of all pairs, in hex, from what a manifest says of their `shards`."""
    return hashlib.sha256("".join(shard["sha256"] for shard in shards).encode()).hexdigest()


def digest_of_pairs(table: pa.Table) -> int:
    """The sum of the sha256 of each pair of a `table`, all but its original; `hash_together` says why a sum."""
    columns = [table.column(name).to_pylist() for name in COLUMNS if name != "original"]
    total = 0
    for row in zip(*columns, strict=True):
        sha256 = hashlib.sha256()
        for value in row:
            content = value if isinstance(value, bytes) else value.encode()
            sha256.update(len(content).to_bytes(8, "little") + content)
        total += int.from_bytes(sha256.digest(), "big")
    return total


def check_shard(path: Path, shard: Mapping[str, Any], *, remedy: str) -> None:
    """Compare every byte of a shard with what its manifest says.

    Args:
        path: of the shard.
        shard: its rows and sha256.
        remedy: what to do where it is damaged.

    Raises:
        DataError: it is missing, empty, cut, or was changed.
    """
    if not path.is_file() or path.stat().st_size == 0:
        got = "0 bytes" if path.is_file() else "no file"
        raise DataError(f"{path}: expected a shard of {shard['rows']} pairs, got {got}; {remedy}")
    if (digest := file_hash(path)) != shard["sha256"]:
        raise DataError(
            f"{path}: expected a shard of {shard['rows']} pairs with sha256 {shard['sha256'][:12]}…, got "
            f"{digest[:12]}…: it is truncated or was changed; {remedy}"
        )


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
        """PNG file of the pair at `row`."""
        return self._cells(row)[0]  # type: ignore[return-value]

    def both(self, row: int) -> tuple[bytes, bytes | None]:
        """PNG file of the pair at `row`, and the original that lies with it, if any."""
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
            table = self._open(number)[0].read_row_group(group, columns=["image", "original"], use_threads=False)
            self._stretches[key] = table.column("image"), table.column("original")
            if len(self._stretches) > _STRETCHES:
                self._stretches.popitem(last=False)
        self._stretches.move_to_end(key)
        return self._stretches[key]
