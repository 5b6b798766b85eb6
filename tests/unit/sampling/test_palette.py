"""Drawings of few flat colours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rag_diffusion import RetrievalPipeline
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.parametrisation import to_clean
from rag_diffusion.sampling.palette import few_colours, palette
from rag_diffusion.sampling.threshold import threshold

INK, PAPER, SKY = (-0.8, -0.6, -0.7), (1.0, 1.0, 1.0), (-0.3, 0.2, 0.9)


def flag(size: int = 32) -> Tensor:
    """(1, 3, H, W): three stripes of one colour each."""
    stripes = [torch.tensor(colour).view(3, 1, 1).expand(3, size, size) for colour in (PAPER, INK, SKY)]
    return torch.cat(stripes, dim=1)[None]


def colours_of(picture: Tensor) -> set[tuple[int, ...]]:
    """The 8-bit colours of a (3, H, W) picture."""
    return {tuple(colour) for colour in ((picture.flatten(1).T + 1) * 127.5).round().int().tolist()}


def test_what_is_flat_already_stays_as_it_is() -> None:
    """But for pixels beside an outline, which take part in both of its sides."""
    difference = (few_colours(flag(), 8) - flag()).abs().amax(dim=(0, 1, 3))
    beside = [30, 31, 32, 33, 62, 63, 64, 65]
    assert float(difference[[row for row in range(96) if row not in beside]].max()) < 0.005  # 8 bits
    assert float(difference.max()) < 0.5


def test_a_painted_area_becomes_one_colour_its_mean() -> None:
    draws = torch.Generator().manual_seed(0)
    painted = flag() + 0.05 * torch.randn(1, 3, 96, 32, generator=draws)
    drawn = few_colours(painted.clamp(-1, 1), 3)[0]
    for start, colour in ((0, PAPER), (32, INK), (64, SKY)):
        inside = drawn[:, start + 3 : start + 29]
        assert len(colours_of(inside)) == 1
        assert float((inside.mean(dim=(1, 2)) - torch.tensor(colour)).abs().max()) < 0.03
    assert len(colours_of(painted[0])) > 2000


def test_outlines_are_smooth_as_those_of_rendered_drawings() -> None:
    x = torch.arange(64).float()
    disc = ((x[:, None] - 31.5) ** 2 + (x - 31.5) ** 2).sqrt().sub(20).clamp(-0.5, 0.5).mul(2).expand(1, 3, 64, 64)
    drawn = few_colours(disc, 2)
    assert len(colours_of(drawn[0])) > 4  # two areas, and what lies between them
    assert float((drawn - disc).abs().mean()) < 0.02


def test_a_picture_depends_on_none_beside_it() -> None:
    draws = torch.Generator().manual_seed(1)
    pictures = torch.rand(3, 3, 16, 16, generator=draws) * 2 - 1
    together = few_colours(pictures, 5)
    for row in range(3):
        torch.testing.assert_close(few_colours(pictures[row : row + 1], 5)[0], together[row], atol=1e-5, rtol=0)
    assert palette(pictures, 5).shape == (3, 5, 3)
    assert few_colours(pictures.half(), 5).dtype == torch.float16


def test_colours_of_a_palette_are_those_that_look_most_alike() -> None:
    ink, pale = (10, 10, 10), (250, 250, 245)
    drawn = few_colours(torch.cat([flag(), flag()]), 8, [np.array([ink, pale], dtype=np.uint8), None])
    inside = [5, 20, 50, 80, 90]
    assert colours_of(drawn[0, :, inside]) == {ink, pale}
    assert torch.equal(drawn[1], few_colours(flag(), 8)[0])


def test_fewer_than_one_colour_is_refused() -> None:
    with pytest.raises(ValueError, match="count: expected 1 colour or more, got 0"):
        few_colours(flag(), 0)


def test_thresholding_by_a_palette_waits_until_there_is_a_picture(tiny_generator: Generator) -> None:
    draws = torch.Generator().manual_seed(0)
    sample, output = (torch.randn(2, *tiny_generator.sample_shape, generator=draws) for _ in range(2))
    early, late = torch.tensor(700), torch.tensor(100)
    static = threshold(tiny_generator, "static", sample, early, output)
    assert torch.equal(threshold(tiny_generator, "palette", sample, early, output), static)
    mean = threshold(tiny_generator, "palette", sample, late, output)
    alpha, codec = tiny_generator.alphas_cumprod(late), tiny_generator.codec

    def pixels(prediction: Tensor) -> Tensor:
        return codec.decode(to_clean("v_prediction", sample, prediction, alpha))

    clipped = pixels(threshold(tiny_generator, "static", sample, late, output)).clamp(-1, 1)
    apart = (pixels(mean) - few_colours(clipped)).abs()
    assert float((apart > 0.02).float().mean()) < 1e-3  # but where rounding decides which colour is nearer


def test_a_pipeline_draws_as_it_is_told_and_says_so(tiny_generator: Generator) -> None:
    pipe = RetrievalPipeline(tiny_generator)
    pipe.set_progress_bar_config(disable=True)

    def drawn(**options: Any) -> tuple[Tensor, str]:
        seed = torch.Generator().manual_seed(3)
        out = pipe("a cat", [], num_inference_steps=4, generator=seed, output_type="pt", **options)
        return out.images[0], out.provenance[0].settings["thresholding"]

    plain, told = drawn()
    assert told == "static"
    pipe.thresholding = "palette"
    flat, told = drawn()
    assert told == "palette"
    assert len(colours_of(flat * 2 - 1)) < len(colours_of(plain * 2 - 1))
    assert torch.equal(drawn(thresholding="static")[0], plain)
    torch.testing.assert_close(drawn(thresholding="palette")[0], flat)
