"""Closed-form linear scorers on the trunk's features: whitening within entity, and discriminant analysis of styles.

n images, D features, k kept dimensions. float64 throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import solve_triangular

from rag_diffusion.arrays import Doubles, Ints


@dataclass(frozen=True, kw_only=True)
class Affine:
    """x -> (x - center) @ matrix + bias.

    Attributes:
        center: (D,).
        matrix: (D, k).
        bias: (k,).
    """

    center: Doubles
    matrix: Doubles
    bias: Doubles

    def __call__(self, features: ArrayLike) -> Doubles:
        """Features (n, D) -> (n, k)."""
        values: Doubles = np.asarray(features, dtype=np.float64) - self.center
        return values @ self.matrix + self.bias


def group_means(features: Doubles, groups: Ints) -> tuple[Doubles, Ints]:
    """Mean (g, D) and size (g,) of each group of `features` (n, D); `groups` (n,) are numbers 0 .. g-1."""
    counts = np.bincount(groups)
    sums = np.zeros((len(counts), features.shape[1]))
    np.add.at(sums, groups, features)
    return sums / counts[:, None], counts


def within_covariance(features: Doubles, groups: Ints) -> Doubles:
    """Unbiased covariance (D, D) of `features` (n, D) about the mean of their group; `groups` (n,) are numbers."""
    means, counts = group_means(features, groups)
    residual = features - means[groups]
    covariance: Doubles = residual.T @ residual / (len(features) - len(counts))
    return covariance


def shrink(covariance: Doubles, share: float) -> Doubles:
    """Move a `covariance` S (D, D) toward the sphere of the same trace: (1 - `share`) S + share tr(S)/D I."""
    size = len(covariance)
    sphere: Doubles = np.trace(covariance) / size * np.eye(size)
    return (1 - share) * covariance + share * sphere


def fit_whitening(features: ArrayLike, groups: Ints, *, shrinkage: float, dims: int) -> Affine:
    """Features in which the drawings of one group scatter like a unit sphere, cut to where groups differ most.

    Args:
        features: (n, D).
        groups: (n,) group numbers 0 .. g-1.
        shrinkage: of the covariance within groups.
        dims: directions kept, those of the largest scatter between groups.

    Returns:
        x -> A x + b, to fewer features.

    Source: method.md section 4; linear discriminant analysis with classes = entities.
    """
    values = np.asarray(features, dtype=np.float64)
    center = values.mean(axis=0)
    root = np.linalg.cholesky(shrink(within_covariance(values, groups), shrinkage))
    white = solve_triangular(root, np.eye(len(root)), lower=True).T  # any root will do: the directions turn with it
    means, counts = group_means(values - center, groups)
    _, _, directions = np.linalg.svd(np.sqrt(counts)[:, None] * (means @ white), full_matrices=False)
    matrix = white @ directions[:dims].T
    return Affine(center=center, matrix=matrix, bias=np.zeros(matrix.shape[1]))


def fit_lda(features: ArrayLike, classes: Ints, *, shrinkage: float) -> Affine:
    """Linear discriminant with equal priors: log-posteriors up to a constant.

    Args:
        features: (n, D).
        classes: (n,) class numbers 0 .. c-1.
        shrinkage: of the covariance within classes, after each feature is scaled to unit spread.

    Returns:
        x -> A x + b, to one number a class.
    """
    values = np.asarray(features, dtype=np.float64)
    center = values.mean(axis=0)
    spread = values.std(axis=0)
    scale = np.where(spread > 1e-6, spread, 1.0)  # a feature that never changes says nothing
    scaled = (values - center) / scale
    means, _ = group_means(scaled, classes)
    weights = np.linalg.solve(shrink(within_covariance(scaled, classes), shrinkage), means.T)
    return Affine(center=center, matrix=weights / scale[:, None], bias=-0.5 * np.einsum("cd,dc->c", means, weights))


def unit(features: ArrayLike) -> Doubles:
    """`features` (..., D) scaled to length 1; a zero row stays zero."""
    values = np.asarray(features, dtype=np.float64)
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    return values / np.where(length > 0, length, 1)
