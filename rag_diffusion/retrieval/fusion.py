"""Several similarities into one score: each brought to [0, 1] by its own best hits, then a weighted
sum.

Source: WO2024072749A1 [0038]-[0047], combination of text-to-text and text-to-image similarity by
sum.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rag_diffusion.errors import ConfigError

Doubles = NDArray[np.float64]

DECIMALS = 6  # scores that agree to so many digits are a tie, whatever the order of a sum was


def normalise(scores: NDArray[np.floating], *, low: float, high: float) -> Doubles:
    """Min-max: `low` to 0 and `high` to 1; below `low` is negative. All 0 where there is no spread.

    Args:
        scores: of any shape.
        low: the last score of the pool that the hits are taken from.
        high: the best score.
    """
    if high <= low:
        return np.zeros(scores.shape)
    return (scores.astype(np.float64) - low) / (high - low)


def contributions(parts: Mapping[str, Doubles], weights: Mapping[str, float]) -> dict[str, Doubles]:
    """Each normalised similarity times its share of the weights; they sum to the fused score.

    Args:
        parts: normalised scores by name, all of one shape.
        weights: by the same names, not negative.

    Raises:
        ConfigError: the weights sum to zero.
    """
    total = sum(weights[name] for name in parts)
    if total <= 0:
        raise ConfigError(
            f"retrieval.weights: expected at least one above zero, got {dict(weights)}; raise one of them"
        )
    return {name: weights[name] / total * values for name, values in parts.items()}


def best_first(scores: Doubles, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Order of descending score; ties by row number, which is the order of pair ids."""
    return np.lexsort((rows, -np.round(scores, DECIMALS)))
