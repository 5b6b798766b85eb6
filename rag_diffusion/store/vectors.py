"""Image and text vectors of pairs in one safetensors file, written block by block and read where they lie.

The file is what `safetensors.numpy.save_file` writes, but neither side ever holds it in memory.

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

VECTORS_FILE = "vectors.safetensors"
NAMES = ("image", "text")
_TYPES = {"F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8"}


class Rows(Protocol):
    """(N, D) float32, in memory or on disk."""

    def __len__(self) -> int: ...

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
    """

    def __init__(self, path: Path, rows: int, width: int) -> None:
        size = 4 * rows * width
        table = {
            name: {"dtype": "F32", "shape": [rows, width], "data_offsets": [place * size, (place + 1) * size]}
            for place, name in enumerate(NAMES)
        }
        header = json.dumps(table, separators=(",", ":")).encode()
        header += b" " * (-len(header) % 8)
        self._file = path.open("wb")
        self._file.write(len(header).to_bytes(8, "little") + header)
        self._at = {name: 8 + len(header) + place * size for place, name in enumerate(NAMES)}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, image: Floats, text: Floats) -> None:
        """The next rows of both: `image` and `text`, (m, D) each."""
        for name, block in zip(NAMES, (image, text), strict=True):
            self._file.seek(self._at[name])
            self._file.write(np.ascontiguousarray(block, dtype="<f4").data)
            self._at[name] += block.nbytes


@dataclass(frozen=True)
class Vectors:
    """Unit vectors of images and captions, row by row: (n, D) float32 each, in memory or mapped from a file."""

    image: Floats
    text: Floats

    def save(self, path: Path) -> None:
        """Write both tables to `path`."""
        with VectorWriter(path, *self.image.shape) as file:
            file.write(self.image, self.text)

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
            image, text = (tensors[name] for name in NAMES)
            if any(one.dtype != np.float32 or one.ndim != 2 for one in (image, text)):
                raise ValueError(f"{image.dtype} {image.shape} and {text.dtype} {text.shape}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: expected image and text vectors, got {error}; {remedy}") from None
        if len(image) != rows or len(text) != rows:
            raise DataError(
                f"{path}: expected {rows} vectors of images and of captions, got {len(image)} and {len(text)}; {remedy}"
            )
        return cls(image, text)


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
