"""Intervals by a paired bootstrap over clusters."""

from __future__ import annotations

import numpy as np
import pytest

from rag_diffusion.metrics.bootstrap import ClusterBootstrap, interval


def test_weights_repeat_whole_clusters_and_keep_their_number() -> None:
    bootstrap = ClusterBootstrap(["a", "b", "a", "c"], draws=200, seed=0)
    assert np.array_equal(bootstrap.weights[:, 0], bootstrap.weights[:, 2])
    assert np.all(bootstrap.weights[:, [0, 1, 3]].sum(axis=1) == 3)


def test_mean_of_a_draw_is_computed_by_hand() -> None:
    bootstrap = ClusterBootstrap(["a", "b", "a"], draws=1, seed=0)
    bootstrap.weights[:] = [[2, 0, 2]]
    assert bootstrap.means([0.25, 9.0, 0.75])[0] == pytest.approx(0.5)
    bootstrap.weights[:] = [[1, 2, 1]]
    assert bootstrap.means([1.0, 0.0, 0.0])[0] == pytest.approx(0.25)


def test_several_columns_get_the_same_draws() -> None:
    bootstrap = ClusterBootstrap([str(number) for number in range(9)], draws=50, seed=1)
    values = np.random.default_rng(0).random((9, 2))
    assert np.allclose(bootstrap.means(values)[:, 1], bootstrap.means(values[:, 1]))


def test_interval_of_independent_prompts_agrees_with_the_binomial() -> None:
    values = np.repeat([1.0, 0.0], [30, 70])
    found = ClusterBootstrap([str(n) for n in range(100)], draws=20_000, seed=0).interval(values)
    error = 1.96 * np.sqrt(0.3 * 0.7 / 100)
    assert found.mean == pytest.approx(0.3)
    assert found.low == pytest.approx(0.3 - error, abs=0.015)
    assert found.high == pytest.approx(0.3 + error, abs=0.015)


def test_clustered_prompts_widen_the_interval() -> None:
    values = np.repeat(np.arange(20) % 2, 5).astype(float)
    alone = ClusterBootstrap([str(n) for n in range(100)], draws=4000, seed=0).interval(values)
    together = ClusterBootstrap([str(n // 5) for n in range(100)], draws=4000, seed=0).interval(values)
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_difference_is_paired_so_that_what_is_common_cancels() -> None:
    rng = np.random.default_rng(0)
    common = rng.random(60) * 10
    bootstrap = ClusterBootstrap([str(n) for n in range(60)], draws=2000, seed=0)
    found = bootstrap.difference(common + 0.5, common)
    assert (found.low, found.mean, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_same_seed_gives_the_same_interval_and_another_seed_does_not() -> None:
    values = np.random.default_rng(0).random(40)
    names = [str(n) for n in range(40)]
    once, again = (ClusterBootstrap(names, draws=500, seed=3).interval(values) for _ in range(2))
    assert once == again
    assert ClusterBootstrap(names, draws=500, seed=4).interval(values) != once


def test_interval_takes_the_central_95_percent() -> None:
    found = interval(0.0, np.arange(1001, dtype=float))
    assert (found.low, found.high) == pytest.approx((25.0, 975.0))
