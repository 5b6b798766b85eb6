"""Vectors in fewer bits than float32: half precision, or 8 bits with a scale for each vector. Who reads gets float32.

A vector that was read and is written again in the same bits is the same, so that merging segments loses nothing.

Shapes: n vectors, D width.

Source: scalar quantization, patent [0065]; faiss has it as ScalarQuantizer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_diffusion.arrays import Floats
from rag_diffusion.types import Precision

SCALE = "_scale"  # after the name of a table of int8
DECODED = 2**12  # vectors decoded at a time: those of 256 dimensions stay in the cache of a core
_LARGEST = 127  # of a component, in int8
_HALF_BITS = np.int32(-(2**31) + 0x0FFFE000)  # where a half's sign, exponent and fraction lie in a float32
_HALF_EXPONENT = np.float32(2.0**112)  # the exponent of a half is less by 15, that of a float32 by 127


class QuantizedRows:
    """(n, D) vectors in fewer bits, in memory or mapped, which are decoded as they are read.

    Args:
        codes: (n, D) float16, finite, or int8.
        scales: (n,) float32 that the int8 of each vector are multiplied with; None for float16.
    """

    def __init__(self, codes: NDArray[Any], scales: Floats | None = None) -> None:
        self._codes, self._scales = np.asarray(codes), None if scales is None else np.asarray(scales)

    def __len__(self) -> int:
        return len(self._codes)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, D)."""
        rows, width = self._codes.shape
        return rows, width

    @property
    def precision(self) -> Precision:
        """`float16` or `int8`."""
        return "float16" if self._scales is None else "int8"

    def __getitem__(self, rows: Any) -> Floats:
        """float32 of some rows, (..., D)."""
        many = isinstance(rows, np.ndarray) and rows.dtype.kind in "iu"  # numpy takes these in half the time
        codes = self._codes.take(rows, axis=0) if many else self._codes[rows]
        if self._scales is None:
            return _from_halves(codes)
        decoded: Floats = codes.astype(np.float32)
        decoded *= self._scales[rows][..., None]
        return decoded

    def __array__(self, dtype: object = None, copy: bool | None = None) -> Floats:
        """All of them in memory."""
        return self[:]

    def stretch(self, start: int, stop: int) -> QuantizedRows:
        """Those from the row `start` to before `stop`; nothing is decoded."""
        return QuantizedRows(self._codes[start:stop], None if self._scales is None else self._scales[start:stop])


def encoded(name: str, vectors: Floats, precision: Precision) -> dict[str, NDArray[Any]]:
    """The tensors of a table.

    Args:
        name: of the table.
        vectors: (n, D) float32 of it.
        precision: in which they are to be kept.

    Returns:
        The (n, D) codes by that name; of int8 also the (n,) float32 scales.
    """
    if precision != "int8":
        return {name: np.ascontiguousarray(vectors, dtype="<f4" if precision == "float32" else "<f2")}
    scales = np.abs(vectors).max(axis=1, initial=0).astype("<f4") / np.float32(_LARGEST)
    codes = np.rint(vectors / np.where(scales > 0, scales, 1)[:, None]).astype("<i1")
    return {name + SCALE: scales, name: codes}


def _from_halves(codes: NDArray[np.float16]) -> Floats:
    """float32 of finite halves, exactly; numpy's own conversion takes several times as long."""
    bits = codes.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= _HALF_BITS
    floats: Floats = bits.view(np.float32)
    floats *= _HALF_EXPONENT
    return floats
