"""Nearest neighbors by inner product through faiss; the only module that imports it.

Shapes: N vectors, Q queries, D width, k hits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np

from rag_diffusion.arrays import Floats, Ints
from rag_diffusion.errors import ConfigError, DataError

_BLOCK = 65536  # vectors compared at a time in exhaustive search
TIE = 1e-6  # inner products of unit vectors closer than this are a tie


class Nearest(Protocol):
    """What finds the nearest of N vectors."""

    def __len__(self) -> int: ...

    def search(self, queries: Floats, k: int) -> tuple[Floats, Ints]:
        """See `VectorIndex.search` for `queries` and `k`."""
        ...


class Exhaustive:
    """Exact search over vectors where they lie: in memory, or mapped from a file; nothing is copied or kept.

    Args:
        vectors: (N, D) float32 unit vectors.
    """

    def __init__(self, vectors: Floats) -> None:
        self._vectors = vectors

    def __len__(self) -> int:
        return len(self._vectors)

    def search(self, queries: Floats, k: int) -> tuple[Floats, Ints]:
        """See `VectorIndex.search` for `queries` and `k`."""
        contiguous = np.ascontiguousarray(queries, dtype=np.float32)
        scores, rows = faiss.knn(contiguous, self._vectors, min(k, len(self)), metric=faiss.METRIC_INNER_PRODUCT)
        return scores, rows


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
    def build(cls, vectors: Floats, factory: str) -> VectorIndex:
        """Train and fill an index.

        Args:
            vectors: (N, D) unit vectors.
            factory: faiss index factory string, e.g. `Flat`, `HNSW32`, `IVF64,Flat`, `PQ32x8`.

        Returns:
            An index of all rows.

        Raises:
            ConfigError: faiss knows no such index, or it cannot be trained on so few vectors.
        """
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        try:
            index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
            index.train(vectors)
            index.add(vectors)
        except RuntimeError as error:
            raise ConfigError(
                f"index.factory: expected a faiss factory string for {len(vectors)} vectors of "
                f"width "
                f"{vectors.shape[1]}, got {factory!r}: {_reason(error)}; `Flat` always works"
            ) from None
        return cls(index)

    def save(self, path: Path) -> None:
        """Write the index to the file `path`."""
        faiss.write_index(self._index, str(path))

    @classmethod
    def load(cls, path: Path, *, remedy: str = "run the stage `index` again") -> VectorIndex:
        """Read an index.

        Args:
            path: the file.
            remedy: what makes a new one.

        Raises:
            DataError: it is missing or damaged.
        """
        try:
            return cls(faiss.read_index(str(path)))
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


def recall(index: Nearest, vectors: Floats, queries: Floats, k: int = 10) -> float:
    """Share of the true k nearest vectors that an index finds.

    Measure it with caption queries: they lie elsewhere than image vectors, and an index that serves
    these well can miss with those. A hit as good as the true k-th counts, so that equal vectors do
    not look like misses.

    Args:
        index: over `vectors`.
        vectors: (N, D) unit vectors.
        queries: (Q, D) unit vectors.
        k: depth.

    Returns:
        Recall@k in [0, 1], against exhaustive search in numpy.
    """
    k = min(k, len(vectors))
    matches = 0
    for start in range(0, len(queries), 256):
        part = queries[start : start + 256]
        best = np.empty((len(part), 0), dtype=np.float32)
        for block in range(0, len(vectors), _BLOCK):
            best = np.concatenate([best, part @ vectors[block : block + _BLOCK].T], axis=1)
            best = np.partition(best, -k, axis=1)[:, -k:] if best.shape[1] > k else best
        rows = index.search(part, k)[1]
        scores = np.einsum("qd,qkd->qk", part, vectors[np.maximum(rows, 0)])
        matches += int((np.where(rows >= 0, scores, -np.inf) >= best.min(axis=1, keepdims=True) - TIE).sum())
    return matches / (len(queries) * k)


def _reason(error: RuntimeError) -> str:
    """The last line of a faiss error, without the source location."""
    return str(error).strip().splitlines()[-1].split("Error: ")[-1]
