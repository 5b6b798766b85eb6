"""What a query's ranking is, and what a query by image adds to it.

Shapes: N pairs, Q queries, D width of the dual encoder's space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rag_diffusion.arrays import Doubles, Floats, Ints
from rag_diffusion.retrieval.allowed import Allowed
from rag_diffusion.retrieval.ann import Nearest


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Ranked rows of one query, best first; `parts` is what each similarity, of `raw`, gave to the score."""

    rows: Ints
    scores: Doubles
    parts: dict[str, Doubles]
    raw: dict[str, Doubles]


@dataclass(frozen=True)
class ImageQuery:
    """What hits are to look like: (Q, D) unit vectors, and the share of that in the score."""

    vectors: Floats
    share: float

    def beside(self, weights: dict[str, float]) -> dict[str, float]:
        """The `weights` of the texts by similarity, scaled to leave that share, and `image_to_image` with it."""
        if not 0 <= self.share <= 1:
            raise ValueError(f"image_weight: expected a share from 0 to 1, got {self.share}")
        total = sum(weights.values()) or 1.0
        scaled = {name: weight / total * (1 - self.share) for name, weight in weights.items()}
        return scaled | {"image_to_image": self.share}


def nearest_allowed(index: Nearest, queries: Floats, allowed: Sequence[Allowed], within: int, depth: int) -> list[Ints]:
    """Allowed hits of every query, best first; asks the index for more until there are enough.

    Args:
        index: over N vectors.
        queries: (Q, D).
        allowed: per query, what may come.
        within: rows that their shared filter lets through.
        depth: hits wanted of each.

    Returns:
        Q arrays of rows.
    """
    counts = np.asarray([allow.count(within) for allow in allowed])
    total, wanted = len(index), np.minimum(depth, counts)
    k = min(total, int(1.2 * depth * total / max(1, counts.min())) + 16)
    while True:
        hits = index.search(queries, k)[1]
        pools = []
        for rows, allow in zip(hits, allowed, strict=True):
            real = rows[rows >= 0]
            pools.append(real[allow.mask(real)])
        if k == total or all(len(pool) >= want for pool, want in zip(pools, wanted, strict=True)):
            return [pool[:depth] for pool in pools]
        k = min(total, 2 * k)
