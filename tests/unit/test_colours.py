"""Palettes of styles, which styles are shaded, and pictures in the colours of a palette."""

from __future__ import annotations

import numpy as np
import pytest

from rag_diffusion.colours import is_shaded, nearest_colours, snap, style_palette, to_lab

RED, BLUE, GREEN, WHITE = (200, 30, 30), (20, 40, 180), (30, 160, 60), (255, 255, 255)


def halves(left: tuple[int, int, int], right: tuple[int, int, int]) -> np.ndarray:
    image = np.empty((8, 8, 3), dtype=np.uint8)
    image[:, :4], image[:, 4:] = left, right
    return image


@pytest.mark.parametrize(("color", "lab"), [
    ((255, 255, 255), (100.0, 0.0, 0.0)), ((0, 0, 0), (0.0, 0.0, 0.0)), ((255, 0, 0), (53.24, 80.09, 67.20)),
    ((0, 0, 255), (32.30, 79.19, -107.86)),
])  # fmt: skip
def test_lab_of_known_colours(color: tuple[int, int, int], lab: tuple[float, float, float]) -> None:
    assert to_lab(np.array(color)) == pytest.approx(np.array(lab), abs=0.05)


def test_palette_holds_the_exact_flat_colours_and_white() -> None:
    images = np.stack([halves(RED, BLUE), halves(BLUE, GREEN)])
    assert {tuple(color) for color in style_palette(images, 3, seed=0).tolist()} == {RED, BLUE, GREEN, WHITE}


def test_palette_ignores_the_mixtures_on_edges() -> None:
    image = halves(RED, WHITE)
    image[:, 4] = (228, 142, 142)
    assert (228, 142, 142) not in {tuple(color) for color in style_palette(image[None], 4, seed=0).tolist()}


def test_snap_takes_the_nearest_colour_to_the_eye() -> None:
    out = snap(halves((190, 60, 50), (240, 245, 250)), np.array([RED, BLUE, WHITE], dtype=np.uint8))
    assert np.array_equal(out, halves(RED, WHITE))


def test_a_colour_that_is_like_none_of_a_palette_becomes_the_one_of_its_lightness() -> None:
    greens = np.array([(27, 94, 32), (165, 214, 167), WHITE], dtype=np.uint8)
    colors = np.array([RED, (160, 210, 160), WHITE], dtype=np.uint8)
    assert nearest_colours(colors, greens, most=60).tolist() == greens.tolist()
    assert nearest_colours(colors, greens).tolist()[0] != greens[0].tolist()


def test_snap_changes_nothing_in_an_image_of_the_palette() -> None:
    image = halves(RED, GREEN)
    assert np.array_equal(snap(image, np.array([GREEN, RED, BLUE], dtype=np.uint8)), image)


def test_gentle_gradients_make_a_style_shaded_and_outlines_do_not() -> None:
    flat = np.stack([np.kron(halves(RED, BLUE), np.ones((8, 8, 1), dtype=np.uint8))] * 2)
    shaded = flat.copy()
    shaded[:, :, :32, 1] += np.arange(32, dtype=np.uint8) * 3
    assert not is_shaded(flat)
    assert is_shaded(shaded)
    assert not is_shaded(np.full_like(flat, 255))
