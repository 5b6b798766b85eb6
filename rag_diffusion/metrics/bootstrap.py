"""Paired bootstrap over clusters: intervals of means, and of differences between variants on the same prompts.

V variants, N prompts, C clusters (entities), R draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

from rag_diffusion.arrays import Doubles, Ints

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and its central 95 % interval."""

    mean: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """The form in reports, rounded to six digits."""
        return {name: round(value, 6) for name, value in asdict(self).items()}


class ClusterBootstrap:
    """Draws of whole clusters with replacement, the same draws for everything that is compared.

    Args:
        clusters: (N,) cluster of each prompt, e.g. its entity.
        draws: R.
        seed: of the draws.

    Attributes:
        weights: (R, N) how often each prompt is in each draw.
    """

    def __init__(self, clusters: Sequence[str], *, draws: int, seed: int) -> None:
        _, number = np.unique(np.asarray(clusters), return_inverse=True)
        size = int(number.max()) + 1
        rng = np.random.default_rng(seed)
        counts = rng.multinomial(size, np.full(size, 1 / size), size=draws)
        self.weights: Doubles = counts[:, number].astype(np.float64)

    def subset(self, rows: Ints) -> ClusterBootstrap:
        """The same draws over some of the prompts; a draw that holds none of them is left out.

        Args:
            rows: (n,) numbers of the prompts.
        """
        part = copy(self)
        weights = self.weights[:, rows]
        part.weights = weights[weights.sum(axis=1) > 0]
        return part

    def means(self, values: ArrayLike) -> Doubles:
        """Mean of `values`, (N,) or (N, V), in each draw: (R,) or (R, V)."""
        numbers = np.asarray(values, dtype=np.float64)
        total = self.weights.sum(axis=1)
        means: Doubles = self.weights @ numbers / (total if numbers.ndim == 1 else total[:, None])
        return means

    def interval(self, values: ArrayLike) -> Interval:
        """Mean of `values`, (N,), with its interval."""
        numbers = np.asarray(values, dtype=np.float64)
        return interval(float(numbers.mean()), self.means(numbers))

    def difference(self, minuend: ArrayLike, subtrahend: ArrayLike) -> Interval:
        """Mean of `minuend` minus `subtrahend`, both (N,), paired by prompt, with its interval."""
        return self.interval(np.asarray(minuend, dtype=np.float64) - np.asarray(subtrahend, dtype=np.float64))


def interval(mean: float, draws: Doubles) -> Interval:
    """Percentile interval of bootstrap `draws` (R,) around a `mean`."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(mean=mean, low=float(low), high=float(high))
