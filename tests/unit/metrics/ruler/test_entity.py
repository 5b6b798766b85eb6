"""Prototypes of candidate entities from styles that nobody was shown."""

from __future__ import annotations

import numpy as np
import pytest

from rag_diffusion.errors import DataError
from rag_diffusion.metrics.ruler.entity import Prototypes

STYLES = ["s0", "s1", "s2", "s3"]


def gallery() -> Prototypes:
    """Two entities in four styles; in style s0 each looks exactly like the other one's drawings elsewhere."""
    features = [[0.0, 1], [1, 0], [1, 0], [2, 1], [1.0, 0], [0, 1], [0, 1], [0, 3]]
    return Prototypes(np.array(features), ["a"] * 4 + ["b"] * 4, STYLES * 2, min_styles=4)


def test_prototype_is_the_mean_of_unit_features_of_the_kept_styles() -> None:
    means = gallery().means({"s0", "s1"})
    raw = np.array([1, 0]) + np.array([2, 1]) / np.sqrt(5)
    assert means[0] == pytest.approx(raw / np.linalg.norm(raw))


def test_hidden_styles_change_who_is_recognised() -> None:
    like_b_in_s0 = np.array([[1.0, 0.0]])
    assert gallery().similarities(like_b_in_s0, {"s0"}).argmax() == 0
    assert gallery().similarities(like_b_in_s0, {"s1", "s2"})[0, 1] > gallery().similarities(like_b_in_s0, {"s0"})[0, 1]


def test_entities_in_too_few_styles_are_no_candidates() -> None:
    found = Prototypes(np.eye(3), ["a", "a", "b"], ["s0", "s1", "s0"], min_styles=2)
    assert found.entities == ["a"]
    with pytest.raises(DataError, match="expected one of the 1 entities"):
        found.number("b")


def test_two_styles_at_least_must_be_left() -> None:
    with pytest.raises(DataError, match="at least 2 styles that were not shown, got 1 of 4"):
        gallery().means({"s0", "s1", "s2"})


def test_two_drawings_of_an_entity_in_one_style_count_as_one_style() -> None:
    found = Prototypes(np.array([[1.0, 0], [0, 1], [1, 0]]), ["a", "a", "a"], ["s0", "s0", "s1"], min_styles=2)
    mean = np.array([1, 1]) / np.sqrt(2) + np.array([1, 0])
    assert found.means(set())[0] == pytest.approx(mean / np.linalg.norm(mean))
