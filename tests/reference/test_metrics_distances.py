"""Frechet distance and KID against scipy, closed forms and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from rag_diffusion.metrics.bootstrap import ClusterBootstrap
from rag_diffusion.metrics.distances import frechet, kernel, kid, kid_interval, paired_kid


def by_scipy(one: np.ndarray, other: np.ndarray) -> float:
    """Frechet distance as in Heusel et al., matrix root by scipy."""
    a, b = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    root = sqrtm(a @ b)
    return float(((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(a + b - 2 * np.real(root)))


def by_loops(one: np.ndarray, other: np.ndarray) -> float:
    """Unbiased squared MMD, summed pair by pair."""
    size = len(one)

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    within = sum(k(part[i], part[j]) for part in (one, other) for i in range(size) for j in range(size) if i != j)
    across = sum(k(x, y) for x in one for y in other)
    return within / (size * (size - 1)) - 2 * across / size**2


def test_frechet_equals_scipy_with_more_images_than_features(rng: np.random.Generator) -> None:
    one, other = rng.normal(size=(80, 6)), rng.normal(size=(90, 6)) @ rng.normal(size=(6, 6)) + 1
    assert frechet(one, other) == pytest.approx(by_scipy(one, other), rel=1e-9)


def test_frechet_equals_scipy_with_more_features_than_images(rng: np.random.Generator) -> None:
    one, other = rng.normal(size=(12, 40)), 2 * rng.normal(size=(9, 40)) + 0.3
    assert frechet(one, other) == pytest.approx(by_scipy(one, other), rel=1e-6)


def test_frechet_of_two_shifted_copies_is_the_squared_shift(rng: np.random.Generator) -> None:
    one = rng.normal(size=(50, 8))
    assert frechet(one + 0.5, one) == pytest.approx(8 * 0.25, rel=1e-6)


def test_frechet_by_hand_in_one_dimension() -> None:
    one, other = np.array([[0.0], [2.0]]), np.array([[10.0], [18.0]])  # means 1 and 14, deviations sqrt 2 and sqrt 32
    assert frechet(one, other) == pytest.approx(13**2 + (np.sqrt(2) - np.sqrt(32)) ** 2)


def test_kid_equals_a_plain_double_loop_in_float64(rng: np.random.Generator) -> None:
    one, other = rng.normal(size=(11, 5)), rng.normal(size=(11, 5)) + 0.4
    assert kid(one, other) == pytest.approx(by_loops(one, other), rel=1e-10)


def test_kid_by_hand() -> None:
    one, other = np.array([[0.0], [0.0]]), np.array([[1.0], [1.0]])  # k = 1 within one, 8 within other, 1 across
    assert kid(one, other) == pytest.approx(1 + 8 - 2)


def test_kid_is_unbiased(rng: np.random.Generator) -> None:
    values = [kid(rng.normal(size=(10, 4)), rng.normal(size=(10, 4))) for _ in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(300)
    assert np.mean(np.array(values) < 0) > 0.3


def test_kid_leaves_the_global_random_state_alone(rng: np.random.Generator) -> None:
    before = torch.get_rng_state()
    kid(rng.normal(size=(10, 4)), rng.normal(size=(10, 4)))
    assert torch.equal(torch.get_rng_state(), before)


def test_paired_kid_is_the_plain_one_without_the_pairs_of_one_prompt(rng: np.random.Generator) -> None:
    one, other = rng.normal(size=(9, 5)), rng.normal(size=(9, 5)) + 0.3
    across = kernel(one, other)
    within = sum((k.sum() - np.trace(k)) / 72 for k in (kernel(one, one), kernel(other, other)))
    assert paired_kid(one, other) == pytest.approx(within - 2 * (across.sum() - np.trace(across)) / 72, rel=1e-9)


def test_paired_kid_of_the_real_images_is_zero_where_the_plain_one_is_below(rng: np.random.Generator) -> None:
    real = rng.normal(size=(20, 5))
    assert paired_kid(real, real) == pytest.approx(0, abs=1e-12)
    assert kid(real, real) < -0.1


def test_paired_kid_is_unbiased_for_images_that_resemble_the_real_one_of_their_prompt(rng: np.random.Generator) -> None:
    paired, plain = [], []
    for _ in range(400):
        real = rng.normal(size=(10, 4))
        alike = 0.8 * real + 0.6 * rng.normal(size=(10, 4))  # the same distribution, prompt by prompt alike
        paired.append(paired_kid(alike, real))
        plain.append(kid(alike, real))
    assert abs(np.mean(paired)) < 3 * np.std(paired) / np.sqrt(400)
    assert np.mean(plain) < -3 * np.std(plain) / np.sqrt(400)


def test_kid_bootstrap_draw_of_every_prompt_once_is_the_kid_itself(rng: np.random.Generator) -> None:
    one, other = rng.normal(size=(15, 5)), rng.normal(size=(15, 5)) + 1
    bootstrap = ClusterBootstrap([str(n) for n in range(15)], draws=3, seed=0)
    bootstrap.weights[:] = 1
    found = kid_interval(one, other, bootstrap)
    assert (found.low, found.high) == pytest.approx((found.mean, found.mean))


def test_kid_interval_lies_around_its_mean_for_paired_images(rng: np.random.Generator) -> None:
    real = rng.normal(size=(60, 6))
    bootstrap = ClusterBootstrap([str(n) for n in range(60)], draws=2000, seed=0)
    found = kid_interval(0.9 * real + 0.5 * rng.normal(size=(60, 6)) + 0.3, real, bootstrap)
    assert found.low < found.mean < found.high
    assert found.mean - found.low == pytest.approx(found.high - found.mean, rel=0.6)


def test_kid_interval_holds_zero_for_equal_distributions_and_not_for_others(rng: np.random.Generator) -> None:
    bootstrap = ClusterBootstrap([str(n) for n in range(80)], draws=800, seed=0)
    real = rng.normal(size=(80, 6))
    same, other = kid_interval(rng.normal(size=(80, 6)), real, bootstrap), kid_interval(real + 1, real, bootstrap)
    assert same.low < 0 < same.high
    assert 0 < other.low < other.mean < other.high
