"""Several similarities into one score: by weighted sum, by product, or by reciprocal ranks.

Sum and product first bring each similarity to [0, 1] by its own best hits. Whatever the way, the best possible score
is 1, and a deeper pool does not change the scores of its beginning.

Source: WO2024072749A1 [0038]-[0047], combination of text-to-text and text-to-image similarity by sum or product;
reciprocal-rank fusion: Cormack, Clarke, Buettcher, SIGIR 2009.

Shapes: R candidates of one query.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rag_diffusion.arrays import Doubles, Ints
from rag_diffusion.errors import ConfigError

FusionName = Literal["sum", "product", "reciprocal_rank"]

DECIMALS = 6  # scores that agree to so many digits are a tie, whatever the order of a sum was
POOL = 200  # hits that each similarity offers; its last one is the zero of the min-max scale
FLOOR = 0.001  # least factor of a product: a hit that one similarity does not know is far behind, but in order


def normalise(scores: NDArray[np.floating], *, low: float, high: float) -> Doubles:
    """Min-max: `low` to 0 and `high` to 1; below `low` is negative. All 0 where there is no spread.

    Args:
        scores: of any shape.
        low: the last score of the pool that the hits are taken from.
        high: the best score.

    Returns:
        Float64 of the same shape.
    """
    if high <= low:
        return np.zeros(scores.shape)
    return (scores.astype(np.float64) - low) / (high - low)


def fuse(
    raw: Mapping[str, Doubles], weights: Mapping[str, float], how: FusionName, rank_constant: int
) -> tuple[Doubles, dict[str, Doubles]]:
    """Fused scores (R,), and what each similarity gave to them.

    Args:
        raw: (R,) similarities by name.
        weights: by the same names, not negative.
        how: `sum` and `reciprocal_rank` add up the parts, `product` multiplies them.
        rank_constant: of the reciprocal ranks.

    Raises:
        ConfigError: the weights sum to zero.
    """
    if how == "reciprocal_rank":
        parts = contributions({name: reciprocal_ranks(values, rank_constant) for name, values in raw.items()}, weights)
    else:
        scaled = {name: _scale(values) for name, values in raw.items()}
        parts = contributions(scaled, weights) if how == "sum" else factors(scaled, weights)
    together = np.prod if how == "product" else np.sum
    return np.asarray(together(list(parts.values()), axis=0), dtype=np.float64), parts


def contributions(parts: Mapping[str, Doubles], weights: Mapping[str, float]) -> dict[str, Doubles]:
    """Each normalised similarity times its share of the weights; they sum to the fused score.

    Args:
        parts: normalised scores by name, all of one shape.
        weights: by the same names, not negative.

    Returns:
        Similarity -> (R,).

    Raises:
        ConfigError: the weights sum to zero.
    """
    return {name: share * parts[name] for name, share in _shares(parts, weights).items()}


def factors(parts: Mapping[str, Doubles], weights: Mapping[str, float]) -> dict[str, Doubles]:
    """Each normalised similarity to the power of its share: s_i^(w_i / sum w); their product is the fused score.

    Args:
        parts: normalised scores by name, all of one shape; below `FLOOR` counts as `FLOOR`.
        weights: by the same names, not negative.

    Returns:
        Similarity -> (R,).

    Raises:
        ConfigError: the weights sum to zero.
    """
    return {name: np.maximum(parts[name], FLOOR) ** share for name, share in _shares(parts, weights).items()}


def reciprocal_ranks(values: Doubles, constant: int) -> Doubles:
    """(constant + 1) / (constant + rank), so that the first has 1; 0 beyond rank `POOL` and without any similarity.

    Equal values share the best of their ranks. The paper's constant is 60.

    Args:
        values: (R,) one similarity of the candidates.
        constant: how slowly the worth of a rank falls.
    """
    rounded = np.round(values, DECIMALS)
    ranks = _ranks(rounded)
    worth = (constant + 1) / (constant + ranks)
    return np.where((ranks <= POOL) & (rounded > 0), worth, 0.0)


def best_first(scores: Doubles, rows: Ints) -> Ints:
    """(R,) places by descending `scores` (R,); ties by number in `rows` (R,), which is the order of pair ids."""
    return np.lexsort((rows, -np.round(scores, DECIMALS)))


def _ranks(values: Doubles) -> Ints:
    """1 for the best; equal values share the best of their ranks."""
    return 1 + np.searchsorted(np.sort(-values), -values, side="left")


def _shares(parts: Mapping[str, Doubles], weights: Mapping[str, float]) -> dict[str, float]:
    total = sum(weights[name] for name in parts)
    if total <= 0:
        raise ConfigError(
            f"retrieval.weights: expected at least one above zero, got {dict(weights)}; raise one of them"
        )
    return {name: weights[name] / total for name in parts}


def _scale(values: Doubles) -> Doubles:
    """Min-max between the best and the POOL-th best: a deeper pool gives the same scores."""
    if not len(values):
        return values
    last = min(POOL, len(values))
    low = float(np.partition(values, -last)[-last])
    return normalise(values, low=low, high=float(values.max()))
