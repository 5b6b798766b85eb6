"""The mark in the pixels: it is there, is not seen, and holds what pictures go through."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from rag_diffusion.errors import ConfigError
from rag_diffusion.sampling.watermark import NUM_BITS, SURE, bits_of, embed, matching_bits, read_bits
from tests.tiny import draw

TEXT = "a studio of one's own"


def picture(side: int, shape: str = "circle") -> np.ndarray:
    return np.asarray(draw(shape, "red", 3).resize((side, side), Image.Resampling.LANCZOS))


def compressed(pixels: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def noise_ratio(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


@pytest.mark.parametrize("side", [64, 256])
def test_every_bit_is_read_again_and_nobody_sees_it(side: int) -> None:
    for shape in ("circle", "square", "stairs"):
        marked = embed(picture(side, shape), TEXT)
        assert (read_bits(marked) == bits_of(TEXT)).all()
        assert noise_ratio(marked, picture(side, shape)) > 40


@pytest.mark.parametrize(("side", "quality", "errors"), [(64, 90, NUM_BITS - SURE), (256, 90, 0), (256, 50, 0)])
def test_it_holds_compression(side: int, quality: int, errors: int) -> None:
    for shape in ("circle", "square", "stairs"):
        assert matching_bits(compressed(embed(picture(side, shape), TEXT), quality), TEXT) >= NUM_BITS - errors


def test_it_holds_scaling() -> None:
    marked = Image.fromarray(embed(picture(64), TEXT))
    for side in (48, 128, 300):
        scaled = np.asarray(marked.resize((side, side), Image.Resampling.LANCZOS))
        assert matching_bits(scaled, TEXT) >= SURE


def test_a_picture_without_it_has_chance_bits() -> None:
    found = [matching_bits(picture(64, shape), TEXT) for shape in ("circle", "square", "stairs", "moon", "ring")]
    assert max(found) < SURE
    assert matching_bits(embed(picture(64), TEXT), "another text") < SURE


def test_black_and_white_alone_carry_it() -> None:
    for level in (0, 255):
        assert matching_bits(embed(np.full((64, 64, 3), level, np.uint8), TEXT), TEXT) == NUM_BITS


def test_a_picture_that_is_too_small_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a picture of 32 pixels a side or more, got 64 x 16"):
        embed(np.zeros((16, 64, 3), np.uint8), TEXT)
