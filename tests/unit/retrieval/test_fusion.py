from __future__ import annotations

import numpy as np
import pytest

from rag_diffusion.errors import ConfigError
from rag_diffusion.retrieval.fusion import FLOOR, POOL, best_first, contributions, fuse, normalise, reciprocal_ranks


def test_normalise_by_hand() -> None:
    scores = np.array([1.0, 2.0, 5.0])
    np.testing.assert_allclose(normalise(scores, low=1.0, high=5.0), [0, 0.25, 1])
    np.testing.assert_allclose(normalise(scores, low=2.0, high=4.0), [-0.5, 0, 1.5])


def test_no_spread_says_nothing() -> None:
    np.testing.assert_array_equal(normalise(np.array([3.0, 3.0]), low=3.0, high=3.0), [0, 0])


def test_weights_are_shares() -> None:
    parts = {"a": np.array([1.0, 0.0]), "b": np.array([0.5, 1.0])}
    given = contributions(parts, {"a": 6.0, "b": 2.0})
    np.testing.assert_allclose(given["a"] + given["b"], [0.75 + 0.125, 0.25])


def test_all_weights_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"retrieval.weights: expected at least one above zero"):
        contributions({"a": np.array([1.0])}, {"a": 0.0})


def test_ties_go_to_the_lower_row_even_when_rounding_differs() -> None:
    scores = np.array([0.5, 0.3 + 1e-12, 0.3, 0.9])
    rows = np.array([7, 9, 2, 4])
    np.testing.assert_array_equal(rows[best_first(scores, rows)], [4, 7, 2, 9])


def test_product_by_hand() -> None:
    raw = {"a": np.array([1.0, 0.5, 0.0]), "b": np.array([10.0, 20.0, 0.0])}
    scores, parts = fuse(raw, {"a": 1.0, "b": 3.0}, "product", 60)
    np.testing.assert_allclose(scores, [1 * 0.5**0.75, 0.5**0.25, FLOOR])
    np.testing.assert_allclose(parts["a"] * parts["b"], scores)


def test_reciprocal_ranks_by_hand() -> None:
    raw = {"a": np.array([9.0, 5.0, 5.0, 1.0]), "b": np.array([0.0, 0.2, 0.1, 0.0])}
    scores, _ = fuse(raw, {"a": 1.0, "b": 1.0}, "reciprocal_rank", 60)
    np.testing.assert_allclose(scores, [0.5, (61 / 62 + 1) / 2, 61 / 62, 61 / 64 / 2])


def test_reciprocal_ranks_end_with_the_pool() -> None:
    worth = reciprocal_ranks(np.arange(POOL + 5, 0, -1.0), 60)
    assert (worth > 0).sum() == POOL
    assert worth[0] == 1
