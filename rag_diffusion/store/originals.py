"""The files that pairs were made of, byte for byte, so that another image size needs no source.

They lie one after the other in a few large files of a generation, `originals-00000.bin` and so on, beside a table that
says where each begins. A file that is large enough never changes: the next generation of a data set links it.

Shapes: n pairs.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rag_diffusion.arrays import Ints, Mask
from rag_diffusion.errors import DataError
from rag_diffusion.store.gather import Gathering
from rag_diffusion.store.manifest import ORIGINALS
from rag_diffusion.store.staging import Part

PLACES = f"{ORIGINALS}.npy"
FILE_BYTES = 2**26  # a file that has as many is followed by another one
_HELD = 256  # files held open from the start: they can be read even when the data set was replaced or removed
_OPEN = Path("/proc/self/fd")  # of Linux; elsewhere a name that is gone cannot be opened
_NONE = -1  # number of the file where a pair has no original
_BLOCK = 2**16  # pair ids read at a time


@dataclass(frozen=True)
class Original:
    """An opened original.

    Attributes:
        file: stands where it begins; whoever opened it closes it.
        length: its bytes.
        side: see `Item.side`.
    """

    file: BinaryIO
    length: int
    side: int = 0

    @classmethod
    def of(cls, content: bytes) -> Original:
        """One whose `content` lies in memory."""
        return cls(io.BytesIO(content), len(content))

    def read(self) -> bytes:
        """All of it; closes the file."""
        with self.file as file:
            return file.read(self.length)


class Originals:
    """Originals of a generation, by the row of their pairs.

    Args:
        folder: of the generation.
        rows: n.
        remedy: what to do where they are damaged.

    Raises:
        DataError: their table is missing or damaged.
    """

    def __init__(self, folder: Path, rows: int, *, remedy: str) -> None:
        self._folder, self._remedy = folder, remedy
        try:
            self.table: Ints = np.load(folder / PLACES, mmap_mode="r", allow_pickle=False)
            self._held = {path: path.open("rb") for path in sorted(folder.glob(f"{ORIGINALS}-*.bin"))[:_HELD]}
        except (OSError, ValueError) as error:
            raise DataError(f"{folder / PLACES}: expected a table of originals, got {error}; {remedy}") from None
        if self.table.shape != (rows, 4):
            raise DataError(f"{folder / PLACES}: expected {rows} rows of 4, got {self.table.shape}; {remedy}")

    def __del__(self) -> None:
        for file in getattr(self, "_held", {}).values():
            file.close()

    def open(self, row: int) -> Original | None:
        """The original of the pair at `row`; None where it has none.

        Raises:
            DataError: the file that holds it is gone.
        """
        number, offset, length, side = self.table[row].tolist()
        if number == _NONE:
            return None
        path = self._folder / _name(number)
        held = self._held.get(path)
        try:  # what is held is opened once more, for a place in it of its own, also where its name is gone
            file = (path if held is None or not _OPEN.is_dir() else _OPEN / str(held.fileno())).open("rb")
        except OSError as error:
            raise DataError(f"{path}: expected originals, got {error.strerror}; {self._remedy}") from None
        file.seek(offset)
        return Original(file, length, side)


@dataclass(frozen=True)
class Earlier:
    """What the generation before has of originals.

    Attributes:
        folder: where they lie.
        pair_ids: of its n pairs.
        table: (n, 4) file, offset, length and side of each.
        files: length and sha256 of its files.
    """

    folder: Path
    pair_ids: pa.ChunkedArray
    table: Ints
    files: Mapping[str, Mapping[str, Any]]


def write_originals(
    folder: Path, parts: Sequence[Part], gathering: Gathering, earlier: Sequence[Earlier]
) -> dict[str, Any]:
    """Write the originals of gathered pairs.

    Args:
        folder: of the new generation.
        parts: hold the originals of new pairs.
        gathering: of the parts.
        earlier: hold those of pairs that were there before; of several, small files become one.

    Returns:
        `num_originals`, `original_bytes` and, of `files`, their length and sha256, as a manifest has them.
    """
    table = np.full((len(gathering), 4), _NONE, dtype=np.int64)
    files: dict[str, dict[str, Any]] = {}
    moved = list[tuple[Earlier, Ints, Ints]]()
    for before in earlier:
        numbers = _link_files(folder, before, files, least=FILE_BYTES if len(earlier) > 1 else 0)
        moved.append((before, *_with_earlier(gathering, before, numbers, table)))
    new = _new(parts, gathering.rows, table[:, 0] == _NONE)  # of parts that hold what was there before: none
    with closing(OriginalsWriter(folder, files)) as writer:
        for row, content, side in chain(chain.from_iterable(_moved(*one) for one in moved), new):
            table[row] = (*writer.add(content), side)
    return save_places(folder, table, files)


def save_places(folder: Path, table: Ints, files: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Write where each original begins.

    Args:
        folder: of the originals.
        table: (n, 4) file, offset, length and side of each pair's; file -1 where a pair has none.
        files: length and sha256 of the files that hold them.

    Returns:
        `num_originals`, `original_bytes` and `files`, as a manifest has them.
    """
    have = table[:, 0] != _NONE
    if have.any():
        np.save(folder / PLACES, table)
    return {"num_originals": int(have.sum()), "original_bytes": int(table[have, 2].sum()), "files": files}


def _name(number: int) -> str:
    return f"{ORIGINALS}-{number:05d}.bin"


def _link_files(folder: Path, earlier: Earlier, files: dict[str, dict[str, Any]], least: int) -> Ints:
    """Link what is there already, files of at least so many bytes; a file system without links gets copies.

    Those that are linked come to `files`. Returns the new number of each file, -1 where it was too small.
    """
    there = [(name, entry) for name, entry in sorted(earlier.files.items()) if name.endswith(".bin")]
    numbers = np.full(len(there) + 1, _NONE, dtype=np.int64)  # the last is that of pairs without an original
    for number, (name, entry) in enumerate(there):
        if entry["bytes"] >= least:
            numbers[number], linked = len(files), _name(len(files))
            try:
                os.link(earlier.folder / name, folder / linked)
            except OSError:
                shutil.copyfile(earlier.folder / name, folder / linked)
            files[linked] = dict(entry)
    return numbers


def _with_earlier(gathering: Gathering, earlier: Earlier, numbers: Ints, table: Ints) -> tuple[Ints, Ints]:
    """Fill in the rows of those pairs whose originals were linked; rows, and rows before, of the others."""
    blocks = [gathering.table(rows, ["pair_id"]).column(0).combine_chunks() for rows in gathering.blocks(_BLOCK)]
    at = pc.index_in(pa.chunked_array(blocks, pa.string()), value_set=earlier.pair_ids).fill_null(_NONE).to_numpy()
    rows = np.flatnonzero(at != _NONE)
    before = earlier.table[at[rows]]
    linked = numbers[before[:, 0]] != _NONE
    table[rows[linked]] = before[linked]
    table[rows[linked], 0] = numbers[before[linked, 0]]
    small = ~linked & (before[:, 0] != _NONE)
    return rows[small], at[rows[small]]


def _moved(earlier: Earlier, rows: Ints, before: Ints) -> Iterator[tuple[int, bytes, int]]:
    """Row, content and side of each original that lies in a small file of what was there before."""
    for row, (number, offset, length, side) in zip(rows.tolist(), earlier.table[before].tolist(), strict=True):
        with (earlier.folder / _name(number)).open("rb") as file:
            file.seek(offset)
            yield row, file.read(length), side


def _new(parts: Sequence[Part], rows: Ints, wanted: Mask) -> Iterator[tuple[int, bytes, int]]:
    """Row, content and side of each original that lies in a part."""
    tables = {number: part.originals() for number, part in enumerate(parts) if part.original_bytes}
    for row in np.flatnonzero(wanted & np.isin(rows[:, 0], list(tables))).tolist():
        number, within = rows[row].tolist()
        offset, length, side = tables[number][within].tolist()
        if length >= 0:
            with parts[number].originals_path.open("rb") as file:
                file.seek(offset)
                yield row, file.read(length), side


class OriginalsWriter:
    """Appends to the last file where it is small, and to further ones.

    Args:
        folder: where they lie.
        files: their length and sha256; those that are written are put in.
    """

    def __init__(self, folder: Path, files: dict[str, dict[str, Any]]) -> None:
        self._folder, self._files = folder, files
        self._number, self._size = len(files), 0
        self._file: BinaryIO | None = None

    def add(self, content: bytes) -> tuple[int, int, int]:
        """Append the `content` of an original; returns the number of its file, its offset and its length in bytes."""
        if self._file is None or self._size >= FILE_BYTES:
            self.close()
            self._begin()
        assert self._file is not None
        self._file.write(content)
        self._digest.update(content)
        self._size += len(content)
        return self._number, self._size - len(content), len(content)

    def _begin(self) -> None:
        last = _name(self._number - 1)
        grows = self._number > 0 and self._files[last]["bytes"] < FILE_BYTES
        path = self._folder / (last if grows else _name(self._number))
        self._digest, self._size = hashlib.sha256(), 0
        if grows:  # it is linked: the generation before has it as well
            self._number -= 1
            before = path.read_bytes()
            path.unlink()
            self._digest.update(before)
            self._size = len(before)
        self._file = path.open("wb")
        self._file.write(before if grows else b"")

    def close(self) -> None:
        """Finish the last file; `files` is complete then."""
        if self._file is not None:
            self._file.close()
            self._files[_name(self._number)] = {"bytes": self._size, "sha256": self._digest.hexdigest()}
            self._file = None
            self._number += 1
