"""Degradations: what they change and what they must leave."""

from __future__ import annotations

import math

import pytest
import torch

from rag_diffusion.metrics.ruler.augment import (
    MAX_SHIFT,
    blur,
    color_matrix,
    degrade,
    move,
    recolor,
    to_floats,
    to_pixels,
)


def test_blur_spreads_a_point_by_a_gaussian_of_the_given_sigma() -> None:
    image = torch.zeros(1, 3, 15, 15)
    image[:, :, 7, 7] = 1
    spread = blur(image, torch.tensor([0.8]))[0, 0]
    assert spread.sum() == pytest.approx(1, abs=1e-5)
    assert spread[7, 8] / spread[7, 7] == pytest.approx(math.exp(-1 / (2 * 0.64)), rel=1e-4)


def test_blur_of_sigma_zero_leaves_an_image_as_it_is_beside_one_that_is_blurred() -> None:
    images = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    out = blur(images, torch.tensor([0.0, 1.0]))
    assert torch.allclose(out[0], images[0], atol=1e-6)
    assert not torch.allclose(out[1], images[1], atol=1e-2)


def test_turning_the_hue_by_a_third_moves_red_to_green() -> None:
    turned = color_matrix(torch.tensor([2 * math.pi / 3]), torch.tensor([1.0]))[0] @ torch.tensor([1.0, 0, 0])
    assert turned.tolist() == pytest.approx([0, 1, 0], abs=1e-5)


def test_no_turn_and_full_saturation_change_nothing_and_no_saturation_gives_gray() -> None:
    color = torch.tensor([0.9, 0.2, 0.4])
    assert torch.allclose(color_matrix(torch.zeros(1), torch.ones(1))[0] @ color, color, atol=1e-6)
    gray = color_matrix(torch.zeros(1), torch.zeros(1))[0] @ color
    assert gray.tolist() == pytest.approx([0.299 * 0.9 + 0.587 * 0.2 + 0.114 * 0.4] * 3, abs=1e-5)


def test_recolouring_keeps_white_white() -> None:
    assert torch.allclose(
        recolor(torch.ones(8, 3, 4, 4), torch.Generator().manual_seed(0)), torch.ones(8, 3, 4, 4), atol=1e-5
    )


def test_moving_shifts_by_whole_pixels_and_fills_with_white() -> None:
    images = torch.ones(64, 3, 16, 16)
    images[:, :, 8, 8] = 0
    moved = move(images, torch.Generator().manual_seed(0))
    assert torch.all((moved == 0).sum(dim=(1, 2, 3)) == 3)
    assert torch.all((moved == 0) | (moved == 1))
    rows = (moved[:, 0] == 0).nonzero()[:, 1]
    assert set((rows - 8).tolist()) == set(range(-MAX_SHIFT, MAX_SHIFT + 1))


def test_degrading_is_decided_by_the_generator() -> None:
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    once, again = (degrade(images, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(once, again)
    assert not torch.equal(once, degrade(images, torch.Generator().manual_seed(6)))
    assert once.min() >= 0
    assert once.max() <= 1


def test_pixels_survive_the_way_to_floats_and_back() -> None:
    pixels = torch.arange(2 * 4 * 4 * 3).reshape(2, 4, 4, 3).to(torch.uint8).numpy()
    assert (to_pixels(to_floats(pixels)) == pixels).all()
