"""Pixels in and out: decode, render, and put on a white square."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from rag_diffusion.errors import DataError


def decode(content: bytes, what: str) -> Image.Image:
    """Decode an image file completely, on white, as RGB.

    Args:
        content: bytes of a file in any format Pillow reads.
        what: name used in the error.

    Raises:
        DataError: no image, or a truncated one.
    """
    if not content:
        raise DataError(f"{what}: expected an image, got 0 bytes; restore or remove the file")
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            return on_white(image)
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:
        raise DataError(f"{what}: expected a readable image, got {error}; restore or remove the file") from None


def on_white(image: Image.Image) -> Image.Image:
    """Flatten transparency onto white; 16-bit gray keeps its upper 8 bits."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def to_square(image: Image.Image, size: int) -> Image.Image:
    """Scale an RGB image into a white `size` x `size` square, keeping its aspect ratio, antialiased."""
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    scaled = image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)
    square = Image.new("RGB", (size, size), (255, 255, 255))
    square.paste(scaled, ((size - width) // 2, (size - height) // 2))
    return square


def encode_png(image: Image.Image | NDArray[np.uint8]) -> bytes:
    """PNG bytes of an image or a (H, W, 3) array; the same pixels give the same bytes."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def render_svg(svg: bytes, size: int, what: str) -> Image.Image:
    """Render an SVG into a white `size` x `size` RGB square.

    Raises:
        DataError: the SVG is invalid, or draws nothing.
    """
    import resvg_py

    try:
        png = bytes(
            resvg_py.svg_to_bytes(svg_string=svg.decode(), width=size, background="white", skip_system_fonts=True)
        )
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{what}: expected an SVG that renders, got {error}") from None
    image = to_square(decode(png, what), size)
    if image.getextrema() == ((255, 255), (255, 255), (255, 255)):
        raise DataError(f"{what}: expected a drawing, got an empty picture")
    return image
