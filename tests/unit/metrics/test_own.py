"""Measures of a corpus without labels, computed by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from rag_diffusion.metrics.bootstrap import ClusterBootstrap
from rag_diffusion.metrics.own import nearest, own_table
from rag_diffusion.metrics.ruler.store import Looks
from rag_diffusion.metrics.variants import Variant

REAL = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], dtype=np.float32)


def variant(brightness: list[int], rows: list[int] | None = None) -> Variant:
    count = len(brightness)
    empty = np.zeros((count, 1))
    return Variant(
        pixels=np.array(brightness, dtype=np.uint8).reshape(count, 1, 1, 1).repeat(3, axis=3),
        looks=Looks(pooled=np.zeros((count, 2), np.float32), entity=empty, style=empty, style_check=empty),
        pair_ids=("",) * count,
        rows=None if rows is None else np.array(rows),
    )


def agree(pixels: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """The brightness of an image, in hundredths, where its text is as long as it is to be."""
    return np.array([image.mean() / 100 * len(text) for image, text in zip(pixels, texts, strict=True)])


def test_nearest_is_by_direction_around_the_middle_of_the_real_images() -> None:
    far = np.array([[9.0, 0.5], [-5.0, -4.0], [0.1, 0.4]], dtype=np.float32)
    assert nearest(far, REAL).tolist() == [0, 2, 1]


def test_shares_and_cosines_are_those_of_the_prompts_that_are_answered() -> None:
    variants = {"real": variant([50, 60, 70]), "retrieved": variant([40, 80], rows=[0, 2])}
    features = {"real": REAL, "retrieved": np.array([[2.0, 0.1], [0.1, 2.0]], dtype=np.float32)}
    table = own_table(variants, features, ["a", "b", "cc"], ClusterBootstrap(["x", "y", "z"], draws=50, seed=0), agree)
    assert table["real"].keys() == {"prompt_agreement"}
    assert table["real"]["prompt_agreement"]["mean"] == pytest.approx((0.5 + 0.6 + 1.4) / 3, abs=1e-6)
    assert table["retrieved"]["own_real_nearest"]["mean"] == 0.5, "0 is nearest to 0, 2 to 1"
    assert table["retrieved"]["prompt_agreement"]["mean"] == pytest.approx((0.4 + 1.6) / 2)
    assert table["retrieved"]["agreement_to_real"]["mean"] == pytest.approx((-0.1 + 0.2) / 2)
