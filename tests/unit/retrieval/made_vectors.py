"""Unit vectors for tests of indexes, and what exhaustive search finds among them."""

from __future__ import annotations

import numpy as np

from rag_diffusion.arrays import Floats
from rag_diffusion.config import IndexConfig
from rag_diffusion.store.vectors import Vectors

ROWS, WIDTH = 6000, 32
REMEDY = "run the stage `index` again"


def unit(rng: np.random.Generator, count: int, dim: int = 16) -> np.ndarray:
    rows = rng.normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def made_vectors(rows: int = ROWS) -> Vectors:
    """Images of a dozen dimensions and some noise; captions lie beside them, and ask from elsewhere as real ones do."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(rows, 12)) @ rng.normal(size=(12, WIDTH)) + 0.3 * rng.normal(size=(rows, WIDTH))
    text = image + 2 * rng.normal(size=WIDTH) + rng.normal(size=image.shape)
    return Vectors(*((one / np.linalg.norm(one, axis=1, keepdims=True)).astype(np.float32) for one in (image, text)))


def config(factory: str, min_recall: float = 0.95) -> IndexConfig:
    return IndexConfig(factory=factory, min_recall=min_recall)


def exact(base: Floats, queries: Floats, k: int) -> Floats:
    return -np.sort(-(queries @ base.T), axis=1)[:, :k]
