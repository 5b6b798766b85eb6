"""eps, v and x_0 at a given x_t."""

from __future__ import annotations

import pytest
import torch

from rag_diffusion.models.parametrisation import PREDICTIONS, from_clean, target, to_clean

DRAWS = torch.Generator().manual_seed(0)
CLEAN, NOISE = (torch.randn(4, 3, 5, 5, generator=DRAWS, dtype=torch.float64) for _ in range(2))
ALPHA = torch.tensor([0.9, 0.5, 0.1, 0.02], dtype=torch.float64)
SAMPLE = ALPHA.sqrt().view(-1, 1, 1, 1) * CLEAN + (1 - ALPHA).sqrt().view(-1, 1, 1, 1) * NOISE


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_a_perfect_prediction_is_the_clean_image(kind: str) -> None:
    torch.testing.assert_close(to_clean(kind, SAMPLE, target(kind, CLEAN, NOISE, ALPHA), ALPHA), CLEAN)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_there_and_back(kind: str) -> None:
    torch.testing.assert_close(from_clean(kind, SAMPLE, to_clean(kind, SAMPLE, NOISE, ALPHA), ALPHA), NOISE)


def test_by_hand() -> None:
    """abar = .36: a = .6, b = .8; x_0 = 1, eps = .5: x_t = 1, v = .3 - .8 = -.5."""
    one, alpha = torch.ones(1, 1, 1, 1), torch.tensor(0.36)
    assert float(target("v_prediction", one, 0.5 * one, alpha)) == pytest.approx(-0.5)
    assert float(to_clean("v_prediction", one, -0.5 * one, alpha)) == pytest.approx(1.0)
    assert float(to_clean("epsilon", one, 0.5 * one, alpha)) == pytest.approx(1.0)
