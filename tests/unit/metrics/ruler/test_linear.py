"""Whitening within groups and discriminant analysis in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from rag_diffusion.metrics.ruler.linear import fit_lda, fit_whitening, group_means, shrink, unit, within_covariance


def test_group_means_by_hand() -> None:
    means, counts = group_means(np.array([[1.0], [5.0], [3.0]]), np.array([0, 1, 0]))
    assert means.tolist() == [[2.0], [5.0]]
    assert counts.tolist() == [2, 1]


def test_within_covariance_by_hand() -> None:
    features = np.array([[0.0, 0], [2, 0], [10, 0], [10, 4]])
    assert within_covariance(features, np.array([0, 0, 1, 1])).tolist() == [[1.0, 0], [0, 4]]


def test_shrinking_keeps_the_trace() -> None:
    covariance = np.diag([1.0, 3.0])
    assert shrink(covariance, 0.5).tolist() == [[1.5, 0], [0, 2.5]]


def test_whitened_groups_scatter_like_a_unit_sphere(rng: np.random.Generator) -> None:
    groups = np.repeat(np.arange(200), 5)
    features = rng.normal(size=(200, 6))[groups] * 3 + rng.normal(size=(1000, 6)) @ rng.normal(size=(6, 6))
    white = fit_whitening(features, groups, shrinkage=0.0, dims=6)(features)
    assert np.allclose(within_covariance(white, groups), np.eye(6), atol=1e-8)


def test_kept_directions_are_those_in_which_groups_differ(rng: np.random.Generator) -> None:
    groups = np.repeat(np.arange(50), 4)
    features = rng.normal(size=(200, 5))
    features[:, 3] += 20 * rng.normal(size=50)[groups]
    matrix = fit_whitening(features, groups, shrinkage=0.0, dims=1).matrix[:, 0]
    assert np.abs(matrix).argmax() == 3


def test_lda_puts_the_border_of_two_equal_classes_in_the_middle(rng: np.random.Generator) -> None:
    noise = rng.normal(size=(4000, 1))
    classes = np.repeat([0, 1], 2000)
    lda = fit_lda(noise + np.where(classes == 1, 4.0, 0.0)[:, None], classes, shrinkage=0.0)
    low, high = lda([[1.7]]), lda([[2.3]])
    assert low.argmax() == 0
    assert high.argmax() == 1


def test_lda_sees_through_a_shared_direction_of_large_spread(rng: np.random.Generator) -> None:
    classes = np.repeat([0, 1], 500)
    shared = 10 * rng.normal(size=1000)
    signal = np.where(classes == 1, 1.0, -1.0)
    features = np.stack([shared, shared + signal + 0.1 * rng.normal(size=1000)], axis=1)
    lda = fit_lda(features, classes, shrinkage=0.0)
    assert (lda(features).argmax(axis=1) == classes).mean() > 0.99


def test_unit_leaves_a_zero_row_zero() -> None:
    assert unit([[3.0, 4.0], [0.0, 0.0]]).tolist() == pytest.approx(np.array([[0.6, 0.8], [0.0, 0.0]]))
