"""Frechet distance and KID through torchmetrics, in float64, on features that were computed once.

At hundreds of images the covariance of the Frechet distance is rank-deficient and its bias depends on the model; KID,
the unbiased squared MMD of the cubic kernel over the full sample, is the number to read.

N images of a variant, M real images, D features, R bootstrap draws.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from rag_diffusion.arrays import Doubles
from rag_diffusion.metrics.bootstrap import ClusterBootstrap, Interval, interval

DEGREE, COEFFICIENT = 3, 1.0


class _Passing(nn.Module):
    """An extractor that hands on features which another one has computed."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet(fake: ArrayLike, real: ArrayLike) -> float:
    """Frechet distance of two Gaussians fitted to features `fake` (N, D) and `real` (M, D), by unbiased covariances.

    Both sets are first turned into coordinates of the space they span, at most N + M - 1 axes: the distance is the same
    and much cheaper than with D axes.

    Source: Heusel et al. 2017, equation 6.
    """
    both = np.concatenate([np.asarray(fake, dtype=np.float64), np.asarray(real, dtype=np.float64)])
    both = both - both.mean(axis=0)
    if both.shape[1] > len(both):
        both = both @ np.linalg.svd(both, full_matrices=False)[2].T
    ours, theirs = torch.from_numpy(both[: len(np.asarray(fake))]), torch.from_numpy(both[len(np.asarray(fake)) :])
    metric = FrechetInceptionDistance(feature=_Passing(both.shape[1])).set_dtype(torch.float64)
    metric.update(theirs, real=True)
    metric.update(ours, real=False)
    return float(metric.compute())


def kid(fake: ArrayLike, real: ArrayLike) -> float:
    """Unbiased squared MMD of features `fake` and `real`, both (N, D), by the kernel (x.y / D + 1)^3.

    torchmetrics draws subsets; one subset of all images makes it the full sample, whose order plays no part.

    Source: Binkowski et al. 2018, section 4.
    """
    ours, theirs = (torch.from_numpy(np.asarray(part, dtype=np.float64)) for part in (fake, real))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance`", category=UserWarning)
        metric = KernelInceptionDistance(feature=_Passing(ours.shape[1]), subsets=1, subset_size=len(ours),
                                         degree=DEGREE, coef=COEFFICIENT)  # fmt: skip
    metric.set_dtype(torch.float64)
    with torch.random.fork_rng(devices=[]):
        metric.update(theirs, real=True)
        metric.update(ours, real=False)
        return float(metric.compute()[0])


def paired_kid(fake: ArrayLike, real: ArrayLike) -> float:
    """KID of features `fake` and `real`, both (N, D), of which row i of either answers prompt i.

    torchmetrics' cross term has the N pairs of an image with the real image of its own prompt. They are more alike than
    chance, a copy most of all, so they pull the estimate down by 2/N of that likeness; here they are taken out again.
    It is 0 for the real images themselves.

    Source: Gretton et al. 2012, equation 4 (sums over i != j in all three terms).
    """
    across = kernel(np.asarray(fake, dtype=np.float64), np.asarray(real, dtype=np.float64))
    size = len(across)
    apart = (across.sum() - np.trace(across)) / (size * (size - 1))
    return kid(fake, real) + 2 * float(across.mean() - apart)


def kid_interval(fake: ArrayLike, real: ArrayLike, bootstrap: ClusterBootstrap) -> Interval:
    """Paired KID with the interval of a bootstrap over prompts.

    A prompt drawn twice never meets itself in any of the three sums, so that the draws stay unbiased.

    Args:
        fake: (N, D) features, of prompt i in row i.
        real: (N, D) features of the real images, likewise.
        bootstrap: over the N prompts.
    """
    ours, theirs = (np.asarray(part, dtype=np.float64) for part in (fake, real))
    across = kernel(ours, theirs)
    values = kernel(ours, ours) + kernel(theirs, theirs) - across - across.T
    np.fill_diagonal(values, 0.0)
    weights = bootstrap.weights
    pairs = weights.sum(axis=1) ** 2 - (weights**2).sum(axis=1)
    weights, pairs = weights[pairs > 0], pairs[pairs > 0]  # a draw of one prompt alone has no pair
    return interval(paired_kid(ours, theirs), ((weights @ values) * weights).sum(axis=1) / pairs)


def kernel(left: Doubles, right: Doubles) -> Doubles:
    """Cubic polynomial kernel (N, M) of features `left` (N, D) and `right` (M, D)."""
    product: Doubles = (left @ right.T / left.shape[1] + COEFFICIENT) ** DEGREE
    return product
