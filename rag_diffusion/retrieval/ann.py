"""Nearest neighbors by inner product through faiss; the only module that imports it.

Shapes: N vectors, Q queries, D width, k hits.

Source: patent [0064-65], pruning and quantization; Johnson, Douze and Jégou 2017, arXiv:1702.08734.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np

from rag_diffusion.arrays import Floats, Ints
from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.store.quantized import DECODED
from rag_diffusion.store.vectors import Rows

_TRAINED_ON = 2**28  # bytes of the vectors that an index is trained on, at most
_ADDED = 2**16  # vectors that are added at a time
_EXPLORED = 4096  # vectors of a graph for a query, at most
_FEW_LINKS = re.compile(r"HNSW[01](?!\d)")
_PLACE = re.compile(r"^Error in .* at \S+:\d+: ")
_SPEED = ("nprobe", "k_factor_rf", "efSearch")  # parameters of faiss that trade recall for speed


class Nearest(Protocol):
    """What finds the nearest of N vectors."""

    def __len__(self) -> int: ...

    def search(self, queries: Floats, k: int) -> tuple[Floats, Ints]:
        """See `VectorIndex.search` for `queries` and `k`."""
        ...


class Exhaustive:
    """Exact search over vectors where they lie: in memory, or mapped from a file.

    Nothing is copied or kept; of vectors in fewer bits a block is decoded at a time.

    Args:
        vectors: (N, D) unit vectors.
    """

    def __init__(self, vectors: Rows) -> None:
        self._vectors = vectors

    def __len__(self) -> int:
        return len(self._vectors)

    def search(self, queries: Floats, k: int) -> tuple[Floats, Ints]:
        """See `VectorIndex.search` for `queries` and `k`."""
        contiguous, k = np.ascontiguousarray(queries, dtype=np.float32), min(k, len(self))
        if isinstance(self._vectors, np.ndarray):
            scores, rows = faiss.knn(contiguous, self._vectors, k, metric=faiss.METRIC_INNER_PRODUCT)
            return scores, rows
        best = faiss.ResultHeap(len(contiguous), k, keep_max=True)
        for start in range(0, len(self), DECODED):
            block = self._vectors[start : start + DECODED]
            scores, rows = faiss.knn(contiguous, block, min(k, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
            best.add_result(scores, rows + start)
        best.finalize()
        return best.D, best.I


class SearchIndex(Nearest, Protocol):
    """An approximate index, of faiss or of another library, that can be tuned and kept in a file."""

    @property
    def width(self) -> int:
        """D."""
        ...

    def parameters(self) -> dict[str, list[int]]:
        """What trades recall for speed: each parameter's values, rising; more of one finds no less."""
        ...

    def use(self, point: Mapping[str, int]) -> None:
        """Search at an operating `point` from now on: a value for each of `parameters`."""
        ...

    def save(self, path: Path) -> None:
        """Write the index to the file `path`."""
        ...


class VectorIndex:
    """A faiss index over unit vectors; row numbers are ids."""

    def __init__(self, index: Any) -> None:
        self._index = index

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def width(self) -> int:
        """D."""
        return int(self._index.d)

    @classmethod
    def build(cls, vectors: Rows, factory: str) -> VectorIndex:
        """Train an index on evenly spread vectors and fill it block by block.

        Memory beside the index itself does not grow with N.

        Args:
            vectors: (N, D) unit vectors, in memory or mapped.
            factory: faiss index factory string, e.g. `Flat`, `HNSW32`, `IVF64,Flat`, `PQ32x8`.

        Returns:
            An index of all rows.

        Raises:
            ConfigError: faiss knows no such index, or it cannot be trained on so few vectors.
        """
        width = vectors.shape[1]
        try:
            index = faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
            if not index.is_trained:
                index.train(evenly_spread(vectors, max(1, _TRAINED_ON // (4 * width))))
            for start in range(0, len(vectors), _ADDED):
                index.add(np.ascontiguousarray(vectors[start : start + _ADDED], dtype=np.float32))
        except RuntimeError as error:
            raise ConfigError(
                f"index.factory: expected a faiss factory string for {len(vectors)} vectors of width {width}, "
                f"got {factory!r}: {_reason(error)}; `Flat` always works"
            ) from None
        return cls(index)

    def parameters(self) -> dict[str, list[int]]:
        """See `SearchIndex.parameters`; those that faiss's own tuning knows, with values between its powers of two."""
        space = faiss.ParameterSpace()
        space.initialize(self._index)
        found: dict[str, list[int]] = {}
        for place in range(space.parameter_ranges.size()):
            one = space.parameter_ranges.at(place)
            if one.name in _SPEED:
                found[one.name] = rising(int(faiss.vector_to_array(one.values).max()))
        if "nprobe" in found:  # faiss leaves out that all lists can be looked into
            found["nprobe"] = rising(int(faiss.extract_index_ivf(self._index).nlist))
        if "efSearch" in found:  # and that a graph of a million needs more than 512
            found["efSearch"] = rising(_EXPLORED)
        return found

    def use(self, point: Mapping[str, int]) -> None:
        """See `SearchIndex.use` for `point`.

        Raises:
            DataError: the index has no such parameter.
        """
        for name, value in point.items():
            try:
                faiss.ParameterSpace().set_index_parameter(self._index, name, value)
            except RuntimeError as error:
                raise DataError(f"expected an index with the parameter {name}, got {_reason(error)}") from None

    def save(self, path: Path) -> None:
        """Write the index to the file `path`."""
        faiss.write_index(self._index, str(path))

    @classmethod
    def load(cls, path: Path, *, remedy: str = "run the stage `index` again") -> VectorIndex:
        """Read an index; lists, codes and links are mapped where faiss can do so: not those of fast scan.

        Args:
            path: the file.
            remedy: what makes a new one.

        Raises:
            DataError: it is missing or damaged.
        """
        try:
            return cls(faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC))
        except RuntimeError as error:
            raise DataError(f"{path}: expected a faiss index, got {_reason(error)}; {remedy}") from None

    def search(self, queries: Floats, k: int) -> tuple[Floats, Ints]:
        """Best hits of every query.

        Args:
            queries: (Q, D).
            k: hits asked for; at most N come.

        Returns:
            Inner products (Q, k), best first, and row numbers (Q, k). Where an approximate index
            finds fewer, the rest of the rows is -1.
        """
        scores, rows = self._index.search(np.ascontiguousarray(queries, dtype=np.float32), min(k, len(self)))
        return scores, rows


def evenly_spread(vectors: Rows, count: int) -> Floats:
    """At most `count` of (N, D) `vectors`, evenly spread, in memory: (n, D) float32."""
    rows = np.linspace(0, len(vectors) - 1, min(count, len(vectors))).astype(np.int64)
    return np.ascontiguousarray(vectors[rows], dtype=np.float32)


def rising(most: int) -> list[int]:
    """Values of a parameter to try: the powers of two below `most`, those between them, and `most`."""
    doubled = [2**power for power in range(most.bit_length())]
    return sorted({value for one in doubled for value in (one, one * 3 // 2) if value < most} | {most})


def inner_products(queries: Floats, vectors: Rows, rows: Ints) -> Floats:
    """Inner products of each query with vectors of its own, which are read where they lie.

    Args:
        queries: (Q, D).
        vectors: (N, D), in memory or mapped.
        rows: (Q, k) of `vectors`; -1 is none.

    Returns:
        (Q, k); of none, -inf.
    """
    queries, rows = np.ascontiguousarray(queries, dtype=np.float32), np.ascontiguousarray(rows, dtype=np.int64)
    if not isinstance(vectors, np.ndarray) or vectors.dtype != np.float32 or not vectors.flags.c_contiguous:
        picked = np.asarray(vectors[rows], dtype=np.float32)  # of none, the last
        found: Floats = np.matmul(picked, queries[:, :, None])[..., 0]
        found[rows < 0] = -np.inf
        return found
    products = np.empty(rows.shape, dtype=np.float32)
    pointers = [faiss.swig_ptr(array) for array in (products, queries, np.asarray(vectors), rows)]
    of_rows: Any = faiss.fvec_inner_products_by_idx  # type: ignore[attr-defined]
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(min(len(queries), threads))  # of this thread; idle ones are waited for
    try:
        of_rows(*pointers, queries.shape[1], *rows.shape)
    finally:
        faiss.omp_set_num_threads(threads)
    return products


def fastest_first(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which of measured operating points no other beats in both, the fastest first.

    Args:
        points: recall and seconds of each.
    """
    kept = faiss.OperatingPoints()
    for number, (recall, seconds) in enumerate(points):
        kept.add(recall, seconds, "", number)
    optimal = [kept.optimal_pts.at(place) for place in range(kept.optimal_pts.size())]
    return [int(point.cno) for point in optimal if point.cno >= 0]


def library_version() -> str:
    """Of the faiss that is installed."""
    return str(faiss.__version__)


def check_factory(factory: str, width: int) -> None:
    """Refuse an index that faiss cannot make, or would end the process for, before there are vectors enough for it.

    Args:
        factory: faiss index factory string.
        width: D of the vectors.

    Raises:
        ConfigError: faiss knows no such index.
    """
    try:
        if _FEW_LINKS.search(factory):
            raise RuntimeError("a graph needs at least two links of a vector")
        faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise ConfigError(
            f"index.factory: expected `auto`, `ScaNN` or a faiss factory string for vectors of width {width}, got "
            f"{factory!r}: {_reason(error)}; `Flat` always works"
        ) from None


def _reason(error: RuntimeError) -> str:
    """The last line of a faiss error, without the source location."""
    return _PLACE.sub("", str(error).strip().splitlines()[-1]).split("Error: ")[-1]
