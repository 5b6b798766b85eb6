"""Which hits of a ranking become neighbors: the first k, those above a threshold, and how unlike each other.

Source: WO2024072749A1 [0038]-[0047], selection by top-k or by threshold; maximal marginal relevance: Carbonell and
Goldstein, SIGIR 1998.

Shapes: P hits, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rag_diffusion.arrays import Doubles, Floats, Ints

SelectionName = Literal["top_k", "threshold", "both"]

MOST = 16  # neighbors that a threshold alone lets through


@dataclass(frozen=True, kw_only=True)
class Selection:
    """How neighbors are selected.

    Attributes:
        kind: `top_k`: the first k; `threshold`: all with at least that fused score, `MOST` of them; `both`: the first k
            of those.
        threshold: least fused score, 0 to 1; a query may then have no neighbor at all.
        diversity: 0 takes the best as they come; above, up to 1, see `diverse`.
    """

    kind: SelectionName = "top_k"
    threshold: float = 0.0
    diversity: float = 0.0

    def most(self, top_k: int) -> int:
        """Hits that come at most where `top_k` are asked for."""
        return MOST if self.kind == "threshold" else top_k

    def choose(self, scores: Doubles, images: Floats | None, top_k: int) -> Ints:
        """Places of the selected in a ranking.

        Args:
            scores: (P,) fused scores, falling.
            images: (P, D) unit vectors; None where `diversity` is 0.
            top_k: hits asked for.

        Returns:
            (K,) places in the ranking, best first; K is at most `top_k`.
        """
        enough = len(scores) if self.kind == "top_k" else int((scores >= self.threshold).sum())
        if self.diversity == 0 or images is None:
            return np.arange(min(enough, self.most(top_k)))
        return diverse(scores[:enough], images[:enough], self.most(top_k), self.diversity)


def diverse(scores: Doubles, vectors: Floats, count: int, diversity: float) -> Ints:
    """Maximal marginal relevance: next comes argmax (1 - diversity) score_i - diversity max_j <v_i, v_j>, j taken.

    Args:
        scores: (P,) relevance.
        vectors: (P, D) unit vectors.
        count: how many to take.
        diversity: from 0 to 1.

    Returns:
        Places in the order in which they were taken; ties go to the better score, then to the lower place.
    """
    taken: list[int] = []
    closest = np.full(len(scores), -1.0)  # cosine to the nearest one taken
    free = np.ones(len(scores), dtype=bool)
    while len(taken) < min(count, len(scores)):
        worth = (1 - diversity) * scores - (diversity * closest if taken else 0.0)
        worth = np.where(free, np.round(worth, 9), -np.inf)
        best = int(np.lexsort((-scores, -worth))[0])
        taken.append(best)
        free[best] = False
        closest = np.maximum(closest, vectors @ vectors[best])
    return np.asarray(taken, dtype=np.int64)
