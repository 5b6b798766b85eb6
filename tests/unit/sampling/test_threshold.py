"""Thresholding of x_0 in the coordinates of every prediction."""

from __future__ import annotations

import pytest
import torch

from rag_diffusion.models.generator import Generator
from rag_diffusion.models.parametrisation import to_clean
from rag_diffusion.sampling.threshold import dynamic, local_bounds, threshold
from tests.unit.sampling.cascades import small_stage


def test_static_thresholding_keeps_pixels_in_range_and_others_as_they_are(tiny_generator: Generator) -> None:
    draws = torch.Generator().manual_seed(0)
    sample, output = (torch.randn(2, *tiny_generator.sample_shape, generator=draws) for _ in range(2))
    timestep = torch.tensor(700)
    alpha, codec = tiny_generator.alphas_cumprod(timestep), tiny_generator.codec

    def pixels(prediction: torch.Tensor) -> torch.Tensor:
        return codec.decode(to_clean("v_prediction", sample, prediction, alpha))

    before = pixels(output)
    after = pixels(threshold(tiny_generator, "static", sample, timestep, output))
    assert float(before.abs().max()) > 1.5
    torch.testing.assert_close(after, before.clamp(-1, 1), atol=1e-4, rtol=1e-4)
    assert torch.equal(threshold(tiny_generator, "none", sample, timestep, output), output)
    with pytest.raises(ValueError, match="expected static, dynamic, palette or none, got 'soft'"):
        threshold(tiny_generator, "soft", sample, timestep, output)


def test_dynamic_thresholding_by_hand() -> None:
    """Within range nothing changes; beyond, the 99.5th percentile becomes 1."""
    inside = torch.linspace(-1, 1, 300).view(1, 3, 10, 10)
    assert torch.equal(dynamic(inside), inside)
    wide = 4 * inside
    limit = float(wide.abs().flatten().quantile(0.995))
    torch.testing.assert_close(dynamic(wide), wide.clamp(-limit, limit) / limit)
    assert float(dynamic(wide).abs().max()) == 1


def test_local_thresholding_keeps_flat_areas_flat_and_lines_within_what_lies_around(
    tiny_generator: Generator,
) -> None:
    stage = small_stage(tiny_generator.text_encoder)  # type: ignore[arg-type]
    low = torch.full((1, 3, 64, 64), 0.2)
    low[..., 40:, :] = -0.4
    levels, noise = torch.zeros(1, dtype=torch.long), torch.zeros_like(low)
    bound = stage.beside(low, levels, noise)
    draws = torch.Generator().manual_seed(0)
    sample, output = (torch.randn(1, *stage.sample_shape, generator=draws) for _ in range(2))
    timestep, bounds = torch.tensor(500), local_bounds(low, 128)
    mean = threshold(bound, "local", sample, timestep, output, bounds)
    alpha = stage.alphas_cumprod(timestep)
    drawn = bound.codec.decode(to_clean("v_prediction", sample, mean, alpha))
    assert float((drawn[..., :78, :] - 0.2).abs().max()) < 1e-4
    assert float((drawn[..., 82:, :] + 0.4).abs().max()) < 1e-4
    edge = drawn[..., 78:82, :]
    assert -0.7 - 1e-4 <= float(edge.min()) < -0.5
    assert 0.3 < float(edge.max()) <= 0.5 + 1e-4
    with pytest.raises(ValueError, match="expected static, dynamic, palette or none, got 'local'"):
        threshold(tiny_generator, "local", sample, timestep, output)
