"""Which hits of a ranking become neighbors: the first k, those above thresholds, and how unlike each other.

Source: WO2024072749A1 [0038]-[0047], selection by top-k or by threshold; maximal marginal relevance: Carbonell and
Goldstein, SIGIR 1998.

Shapes: P hits, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from rag_diffusion.arrays import Doubles, Floats, Ints, Mask

SelectionName = Literal["top_k", "threshold", "both"]

MOST = 16  # neighbors that a threshold alone lets through where nothing else is said


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """The least that a hit must have to become a neighbor; 0 asks for nothing.

    Attributes:
        score: fused score, 0 to 1, which is relative to the best hit of its query.
        probability: calibrated, that it shows what was asked for; without effect where nothing is calibrated.
        bm25: BM25 score for each unit of information of the query, which is the idf of its words added up.
        tf_idf, text_to_text, text_to_image: cosines as they are.
    """

    score: float = 0.0
    probability: float = 0.0
    bm25: float = 0.0
    tf_idf: float = 0.0
    text_to_text: float = 0.0
    text_to_image: float = 0.0

    def passing(
        self, scores: Doubles, raw: Mapping[str, Doubles], information: float, probabilities: Doubles | None
    ) -> Mask:
        """Which hits have enough of everything.

        Args:
            scores: (P,) fused.
            raw: (P,) similarities by name; one that is not there asks for nothing.
            information: idf of the query's words, added up.
            probabilities: (J,) of the first J hits, the later ones do not pass; None where nothing is calibrated.

        Returns:
            (P,).
        """
        passing: Mask = scores >= self.score if self.score > 0 else np.ones(len(scores), dtype=bool)
        if self.probability > 0 and probabilities is not None:
            known = probabilities[: len(scores)]
            passing = passing & (np.append(known, np.zeros(len(scores) - len(known))) >= self.probability)
        for name, values in raw.items():
            least = getattr(self, name, 0.0)
            if least > 0:
                passing = passing & (values / (max(information, 1e-9) if name == "bm25" else 1.0) >= least)
        return passing


@dataclass(frozen=True, kw_only=True)
class Selection:
    """How neighbors are selected.

    Attributes:
        kind: `top_k`: the first k; `threshold`: all that pass `thresholds`, `max_neighbors` at most; `both`: the
            first k of those.
        thresholds: what a hit must have; a query may then have no neighbor at all.
        max_neighbors: hits that come at most where k is not asked for.
        diversity: 0 takes the best as they come; above, up to 1, see `diverse`.
    """

    kind: SelectionName = "top_k"
    thresholds: Thresholds = field(default_factory=Thresholds)
    max_neighbors: int = MOST
    diversity: float = 0.0

    def most(self, top_k: int) -> int:
        """Hits that come at most where `top_k` are asked for."""
        return self.max_neighbors if self.kind == "threshold" else top_k

    def choose(self, scores: Doubles, images: Floats | None, top_k: int, passing: Mask | None = None) -> Ints:
        """Places of the selected in a ranking.

        Args:
            scores: (P,) fused scores, falling.
            images: (P, D) unit vectors; None where `diversity` is 0.
            top_k: hits asked for.
            passing: (P,) of `Thresholds.passing`; None asks for the first `top_k` of all, whatever the kind.

        Returns:
            (K,) places in the ranking, best first; K is at most `most(top_k)`.
        """
        count = top_k if passing is None else self.most(top_k)
        places = np.arange(len(scores)) if passing is None or self.kind == "top_k" else np.flatnonzero(passing)
        if self.diversity == 0 or images is None:
            return places[:count]
        chosen: Ints = places[diverse(scores[places], images[places], count, self.diversity)]
        return chosen


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
