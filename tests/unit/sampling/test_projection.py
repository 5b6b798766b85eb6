"""Guidance with and without its part along x_0."""

from __future__ import annotations

import pytest
import torch

from rag_diffusion.models.generator import Generator
from rag_diffusion.models.parametrisation import PREDICTIONS, to_clean
from rag_diffusion.sampling.guidance import Guidance, combine
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.projection import project

ALPHA = torch.tensor(0.4)


@pytest.fixture
def predictions() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x_t, the full prediction and the guided one, (3, 2, 4, 4)."""
    draw = torch.Generator().manual_seed(0)
    sample, full, reduced = (torch.randn(3, 2, 4, 4, generator=draw, dtype=torch.float64) for _ in range(3))
    return sample, full, combine(full, reduced, 4.0)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_without_a_share_the_change_is_orthogonal_to_the_estimate(
    kind: str, predictions: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> None:
    sample, full, guided = predictions
    clean = to_clean(kind, sample, full, ALPHA)
    change = to_clean(kind, sample, guided, ALPHA) - clean
    left = to_clean(kind, sample, project(kind, sample, full, guided, ALPHA, 0.0), ALPHA) - clean
    assert (left * clean).sum((1, 2, 3)).abs().max() < 1e-9
    assert (left * change).sum((1, 2, 3)).min() > 0
    half = to_clean(kind, sample, project(kind, sample, full, guided, ALPHA, 0.5), ALPHA) - clean
    torch.testing.assert_close(half, (left + change) / 2)


def test_the_whole_share_is_plain_guidance_bit_for_bit(
    predictions: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    sample, full, guided = predictions
    assert project("v_prediction", sample, full, guided, ALPHA, 1.0) is guided
    assert Guidance().parallel_share == 1.0


def test_an_estimate_of_zero_changes_nothing_into_nan() -> None:
    zero = torch.zeros(1, 2, 4, 4)
    assert torch.equal(project("sample", zero, zero, zero + 1, ALPHA, 0.0), zero + 1)


def test_a_drawing_with_projected_guidance_is_less_saturated(tiny_generator: Generator) -> None:
    pipe = RetrievalPipeline(tiny_generator)
    pipe.set_progress_bar_config(disable=True)

    def spread(share: float) -> float:
        guidance = Guidance(mode="text", text_guidance_scale=8.0, parallel_share=share)
        drawn = pipe("a red square", num_neighbors=0, guidance=guidance, num_inference_steps=4, output_type="pt",
                     generator=torch.Generator().manual_seed(0), thresholding="none")  # fmt: skip
        return float(drawn.images.float().std())

    assert spread(0.0) < spread(1.0)
