"""Image and text vectors of a data set in one safetensors file, written block by block and read where they lie.

The file is what `safetensors.numpy.save_file` writes, but neither side ever holds it in memory.

Shapes: n pairs, D width.

Source: the safetensors format: 8 bytes with the length of a JSON header, the header, the tensors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from rag_diffusion.arrays import Floats
from rag_diffusion.errors import DataError

NAMES = ("image", "text")


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
        """The next rows of both: (m, D) each."""
        for name, block in zip(NAMES, (image, text), strict=True):
            self._file.seek(self._at[name])
            self._file.write(np.ascontiguousarray(block, dtype="<f4").data)
            self._at[name] += block.nbytes


@dataclass(frozen=True)
class MappedVectors:
    """Both tables, mapped from the file: (n, D) float32 each."""

    image: Floats
    text: Floats

    @classmethod
    def open(cls, path: Path, rows: int, *, remedy: str) -> MappedVectors:
        """Map a file.

        Args:
            path: the file.
            rows: n.
            remedy: what makes a new one.

        Raises:
            DataError: it is missing, cut, or holds something else.
        """
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if not 0 < length < path.stat().st_size:
                    raise ValueError(f"a header of {length} bytes in a file of {path.stat().st_size}")
                table = json.loads(file.read(length))
            found = [_mapped(path, table[name], 8 + length) for name in NAMES]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: expected image and text vectors, got {error}; {remedy}") from None
        if len(found[0]) != rows or len(found[1]) != rows:
            raise DataError(
                f"{path}: expected {rows} vectors of images and of captions, got {len(found[0])} and {len(found[1])}; "
                f"{remedy}"
            )
        return cls(*found)


def _mapped(path: Path, entry: dict[str, list[int]], start: int) -> Floats:
    rows, width = entry["shape"]
    first, last = entry["data_offsets"]
    if last - first != 4 * rows * width or start + last > path.stat().st_size:
        raise ValueError(f"{path.stat().st_size} bytes where {start + last} belong")
    return np.memmap(path, dtype="<f4", mode="r", offset=start + first, shape=(rows, width))
