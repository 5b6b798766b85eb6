"""Pixels in and out: decode what others made, render, and put on a white square."""

from __future__ import annotations

import functools
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from rag_diffusion.arrays import Pixels
from rag_diffusion.errors import DataError

MAX_BYTES = 64 << 20  # of an encoded image
MAX_PIXELS = 1 << 26  # 67 million, 8192 x 8192: what Pillow's own bomb warning allows, and a camera's largest picture
LARGE = 1 << 24  # pixels beyond which an image is shrunk in stripes: 4096 x 4096
_STRIPE = 1 << 20  # pixels
_KEPT = 4  # times the side that an image is shrunk to has, so that the last step is as good as from the whole
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "AVIF", "BMP", "DIB", "TIFF")  # no EPS, which runs a program
_BEGINNINGS = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_MAKER_NOTES = ("MPO",)  # a camera's photo that carries a preview or a depth map as a second picture
_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(DataError):
    """An image file that is not taken.

    Attributes:
        reason: a short class, a colon, and what came, e.g. `truncated image: 12 bytes are missing`.
    """

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what}: expected a readable image, got {reason}; restore or remove the file")
        self.reason = reason


def decode(content: bytes, what: str, side: int | None = None) -> Image.Image:
    """Decode an image file completely, upright by its EXIF orientation, on white, as RGB.

    Args:
        content: bytes of a PNG, JPEG, WebP, GIF, AVIF, BMP or TIFF file.
        what: name used in the error.
        side: where the caller scales it into a square of this side, so that a JPEG may be decoded smaller: to twice the
            width and height that it will have, or more.

    Returns:
        RGB, of the image's own size.

    Raises:
        ImageError: no image, a truncated, corrupt or animated one, or one beyond `MAX_BYTES` or `MAX_PIXELS`.
    """
    if not content:
        raise ImageError(what, "empty file: 0 bytes")
    if len(content) > MAX_BYTES:
        raise ImageError(what, f"file too large: {len(content)} bytes, at most {MAX_BYTES}")
    try:
        with Image.open(io.BytesIO(content), formats=raster_formats()) as image:
            _check_size(image, what)
            if side is not None:
                _decode_smaller(image, side)
            image.load()
            turn = _turn(image)
            flat = _smaller_on_white(image, side) if side is not None and _large(image, side) else on_white(image)
            return flat if turn is None else flat.transpose(turn)
    except ImageError:
        raise
    except MemoryError:
        raise ImageError(what, "large image: its decoder asks for more memory than it may have") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on bytes made to harm
        raise ImageError(what, _reason(error, content)) from None


def transparency(content: bytes) -> Image.Image | None:
    """How opaque each pixel of the file `content` is, gray and upright; None where all are. `decode` has checked it."""
    with Image.open(io.BytesIO(content), formats=raster_formats()) as image:
        image.load()
        if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
            return None
        turn, alpha = _turn(image), image.convert("RGBA").getchannel("A")
        return alpha if turn is None else alpha.transpose(turn)


@functools.cache
def raster_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _check_size(image: Image.Image, what: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(what, f"decompression bomb: {width} x {height} pixels, at most {MAX_PIXELS}")
    if getattr(image, "is_animated", False) and image.format not in _MAKER_NOTES:
        raise ImageError(
            what,
            f"animated image: a {image.format} of several frames or pages, expected one picture; read it as a video",
        )


def _decode_smaller(image: Image.Image, side: int) -> None:
    width, height = (max(1, 2 * side * length // max(image.size)) for length in image.size)
    image.draft(None, (width, height))


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How a photo is turned upright, as its EXIF orientation says; a damaged EXIF block turns nothing."""
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # the pixels are whole; only what is said of them is not
        return None


def _large(image: Image.Image, side: int) -> bool:
    """Whether whole copies of an image cost more than the last pixels of it are worth."""
    plain = not image.mode.startswith(("I", "F")) or image.mode.startswith("I;16")  # others are scaled as a whole
    return plain and image.width * image.height > LARGE and max(image.size) >= 2 * _KEPT * side


def _smaller_on_white(image: Image.Image, side: int) -> Image.Image:
    """`on_white` of a large image stripe by stripe, shrunk by a whole number to `_KEPT` times the side or more."""
    factor = max(image.size) // (_KEPT * side)
    rows = factor * max(1, _STRIPE // (image.width * factor))
    small = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    for top in range(0, image.height, rows):
        stripe = on_white(image.crop((0, top, image.width, min(image.height, top + rows))))
        small.paste(stripe.reduce(factor), (0, top // factor))
    return small


def _reason(error: Exception, content: bytes) -> str:
    """Why an image was not decoded, without addresses or paths, so that the same file gives the same words."""
    text = str(error)
    if isinstance(error, Image.DecompressionBombError):
        return f"decompression bomb: more than {MAX_PIXELS} pixels"
    if isinstance(error, UnidentifiedImageError):
        known = content.startswith(_BEGINNINGS) or content[4:8] == b"ftyp"
        begins = f"{len(content)} bytes that begin with {content[:16]!r}"
        return f"corrupt image: its header cannot be read, {begins}" if known else f"not an image: {begins}"
    short = content.startswith(b"RIFF") and int.from_bytes(content[4:8], "little") + 8 > len(content)
    if short or "runcated" in text:
        return f"truncated image: {text}"
    return f"corrupt image: {text or type(error).__name__}"


def on_white(image: Image.Image) -> Image.Image:
    """An `image` as RGB, transparency flattened onto white; 16-bit gray keeps its upper 8 bits.

    Raises:
        DataError: 32-bit pixels in a range that says nothing of what is white.
    """
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_eight_bits(np.asarray(image), image.mode))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _eight_bits(pixels: NDArray[np.generic], mode: str) -> Pixels:
    """(H, W) 16-bit, 32-bit or float gray -> uint8."""
    if mode.startswith("I;16"):
        return (pixels.astype(np.uint16) >> 8).astype(np.uint8)
    values = pixels.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if mode == "I" and low >= 0 and 255 < high <= 65535:
        return np.floor(values / 256).astype(np.uint8)
    if mode == "F" and low >= 0 and high <= 1:
        return np.rint(values * 255).astype(np.uint8)
    if low >= 0 and high <= 255:
        return values.astype(np.uint8)
    raise DataError(f"32-bit pixels from {low:g} to {high:g}: expected 0 to 65535, or 0 to 1")


def to_square(image: Image.Image, size: int) -> Image.Image:
    """Scale an RGB `image` into a white square of `size` pixels a side, keeping its aspect ratio, antialiased."""
    return to_frame(image, (size, size))


def to_frame(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale an RGB `image` into a white frame, keeping its aspect ratio, antialiased.

    Args:
        image: of any size.
        size: (H, W) of the frame in pixels.
    """
    scale = min(frame / side for frame, side in zip(reversed(size), image.size, strict=True))
    width, height = (max(1, round(side * scale)) for side in image.size)
    scaled = image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)
    framed = Image.new("RGB", (size[1], size[0]), (255, 255, 255))
    framed.paste(scaled, ((size[1] - width) // 2, (size[0] - height) // 2))
    return framed


def encode_png(image: Image.Image | Pixels) -> bytes:
    """PNG file of an `image`, also a (H, W, 3) uint8 array; the same pixels give the same bytes."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def render_svg(svg: bytes, size: int, what: str) -> Image.Image:
    """Render an SVG into a white RGB square.

    Args:
        svg: the file.
        size: side of the square in pixels.
        what: name used in the error.

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
