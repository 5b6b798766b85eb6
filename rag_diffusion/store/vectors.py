"""Image and text vectors of pairs in one safetensors file, written block by block and read where they lie.

The file is what `safetensors.numpy.save_file` writes, but neither side ever holds it in memory. Who reads gets float32,
in whatever precision the file is.

Shapes: n pairs, D width.

Source: the safetensors format: 8 bytes with the length of a JSON header, the header, the tensors.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from rag_diffusion.arrays import Floats
from rag_diffusion.errors import DataError
from rag_diffusion.store.quantized import DECODED, SCALE, QuantizedRows, encoded
from rag_diffusion.types import Precision

VECTORS_FILE = "vectors.safetensors"
NAMES = ("image", "text")
_TYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I8": "<i1", "I32": "<i4", "I64": "<i8"}
_KIND = {np.dtype(dtype): name for name, dtype in _TYPES.items()}


class Rows(Protocol):
    """(N, D) vectors, in memory or on disk, of which some are float32 in memory once they are asked for."""

    def __len__(self) -> int: ...

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""
        ...

    def __getitem__(self, rows: Any, /) -> Any: ...

    def __array__(self) -> Floats: ...


class VectorTable(Protocol):
    """Unit vectors of images and captions, row by row."""

    @property
    def image(self) -> Rows:
        """(N, D)."""
        ...

    @property
    def text(self) -> Rows:
        """(N, D)."""
        ...


class VectorWriter:
    """Writes both tables at once, a block of rows after the other.

    Args:
        path: the file.
        rows: n.
        width: D.
        precision: in which they are kept.
    """

    def __init__(self, path: Path, rows: int, width: int, precision: Precision = "float32") -> None:
        self._precision = precision
        none = np.empty((0, width), dtype=np.float32)
        tensors = [item for name in NAMES for item in encoded(name, none, precision).items()]
        table, self._at, end = dict[str, Any](), dict[str, int](), 0
        for name, empty in sorted(tensors, key=lambda item: -item[1].dtype.itemsize):  # so that all are aligned
            shape = (rows, *empty.shape[1:])
            self._at[name], end = end, end + empty.dtype.itemsize * math.prod(shape)
            table[name] = {"dtype": _KIND[empty.dtype], "shape": shape, "data_offsets": [self._at[name], end]}
        header = json.dumps(table, separators=(",", ":")).encode()
        header += b" " * (-len(header) % 8)
        self._file = path.open("wb")
        self._file.write(len(header).to_bytes(8, "little") + header)
        self._at = {name: 8 + len(header) + place for name, place in self._at.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, image: Floats, text: Floats) -> None:
        """The next rows of both: `image` and `text`, (m, D) each."""
        for name, block in zip(NAMES, (image, text), strict=True):
            for tensor, values in encoded(name, block, self._precision).items():
                self._file.seek(self._at[tensor])
                self._file.write(values.data)
                self._at[tensor] += values.nbytes


@dataclass(frozen=True)
class Vectors:
    """Unit vectors of images and captions, row by row: (n, D) each, in memory or mapped from a file."""

    image: Rows
    text: Rows

    @property
    def precision(self) -> Precision:
        """In which they are kept."""
        return self.image.precision if isinstance(self.image, QuantizedRows) else "float32"

    def stretch(self, start: int, stop: int) -> Vectors:
        """Those from the row `start` to before `stop`, where they lie."""
        return Vectors(*(stretch_of(rows, start, stop) for rows in (self.image, self.text)))

    def save(self, path: Path, precision: Precision = "float32") -> None:
        """Write both tables to `path`, in a `precision`; memory does not grow with n."""
        rows, width = self.image.shape
        with VectorWriter(path, rows, width, precision) as file:
            for start in range(0, rows, DECODED):
                block = slice(start, start + DECODED)
                file.write(self.image[block], self.text[block])

    def kept(self, path: Path, precision: Precision, *, remedy: str) -> Vectors:
        """What is searched instead of these where they are to be kept in fewer bits.

        Args:
            path: the file that is written then, and mapped.
            precision: of it.
            remedy: what makes a new one.

        Returns:
            Those of the file; these themselves where `precision` is `float32`, and nothing is written.
        """
        if precision == "float32":
            return self
        self.save(path, precision)
        return Vectors.open(path, len(self.image), remedy=remedy)

    @classmethod
    def open(cls, path: Path, rows: int, *, remedy: str) -> Vectors:
        """Map a file.

        Args:
            path: the file.
            rows: n.
            remedy: what makes a new one.

        Raises:
            DataError: it is missing, cut, or holds something else.
        """
        try:
            tensors = map_tensors(path)
            image, text = (_table(tensors, name) for name in NAMES)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: expected image and text vectors, got {error}; {remedy}") from None
        if len(image) != rows or len(text) != rows:
            raise DataError(
                f"{path}: expected {rows} vectors of images and of captions, got {len(image)} and {len(text)}; {remedy}"
            )
        return cls(image, text)


def stretch_of(rows: Rows, start: int, stop: int) -> Rows:
    """Some rows of a table, where they lie.

    Args:
        rows: (n, D).
        start: the first.
        stop: the one after the last.

    Returns:
        (stop - start, D); nothing is copied or decoded.
    """
    stretch: Rows = rows.stretch(start, stop) if isinstance(rows, QuantizedRows) else rows[start:stop]
    return stretch


def _table(tensors: dict[str, NDArray[Any]], name: str) -> Rows:
    """One of the two tables of a file."""
    codes = tensors[name]
    if codes.ndim == 2 and codes.dtype == np.float32:
        return codes
    scales = tensors[name + SCALE] if codes.dtype == np.int8 else None
    fits = scales is None or (scales.dtype == np.float32 and scales.shape == codes.shape[:1])
    if codes.ndim != 2 or codes.dtype not in (np.float16, np.int8) or not fits:
        raise ValueError(f"{name}: {codes.dtype} {codes.shape}")
    return QuantizedRows(codes, scales)


def map_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors file at `path`, by name, where they lie: none of them is read.

    Raises:
        OSError: there is no such file.
        ValueError, KeyError, TypeError: it is none, or cut.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length < size:
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        table = json.loads(file.read(length))
    tensors: dict[str, NDArray[Any]] = {}
    for name, entry in table.items():
        if name != "__metadata__":
            (first, last), shape, dtype = entry["data_offsets"], tuple(entry["shape"]), np.dtype(_TYPES[entry["dtype"]])
            if last - first != dtype.itemsize * math.prod(shape) or 8 + length + last > size:
                raise ValueError(f"{size} bytes where {8 + length + last} belong")
            if last == first:
                tensors[name] = np.empty(shape, dtype=dtype)
            else:
                tensors[name] = np.memmap(path, dtype=dtype, mode="r", offset=8 + length + first, shape=shape)
    return tensors
