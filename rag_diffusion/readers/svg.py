"""Drawings in SVG that anybody may have made, as pictures.

What reaches beyond its own file is refused, and what would be many times as high as it is wide.
"""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

from PIL import Image

from rag_diffusion.errors import DataError
from rag_diffusion.readers.images import ImageError, decode, encode_png, render_svg

SUFFIX = ".svg"
SIDE = 512  # pixels of a rendered drawing
MAX_BYTES = 4 << 20
_MOST_RATIO = 20.0
_OUTSIDE = re.compile(
    rb"(?:href|src)\s*=\s*[\"']\s*(?!#|data:)[^\"'\s]|url\(\s*[\"']?\s*(?!#|data:)[^)\s\"']|@import", re.I
)
_NUMBER = re.compile(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*(?:px|pt|mm|cm|in)?\s*", re.IGNORECASE)


_ROOT = re.compile(rb"<(?:[\w.-]+:)?svg[\s>]")
_LOOKED_AT = 1 << 16  # bytes; a licence may stand before the root


def is_drawing(content: bytes) -> bool:
    """Whether the `content` of a file is an SVG; no picture of pixels begins as one does."""
    beginning = content[:_LOOKED_AT].lstrip(b"\xef\xbb\xbf \t\r\n")
    return beginning.startswith(b"<") and _ROOT.search(beginning) is not None


def picture_of(content: bytes, what: str, side: int = SIDE) -> Image.Image:
    """A picture of pixels as it is, a drawing on a white square.

    Args:
        content: an encoded image file or an SVG, which anybody may have made.
        what: its name, for the error.
        side: of a drawing's square in pixels.

    Returns:
        RGB; a picture of pixels has its own size.

    Raises:
        ImageError: it is neither; see `images.decode` and `render_drawing`.
    """
    if not is_drawing(content):
        return decode(content, what)
    try:
        return render_drawing(content, what, side)
    except DataError as error:
        raise ImageError(what, str(error)) from None


def svg_to_png(content: bytes, what: str) -> bytes:
    """PNG file of the SVG in `content`, `SIDE` pixels on each side; `what` names it, see `render_drawing`."""
    return encode_png(render_drawing(content, what, SIDE))


def render_drawing(content: bytes, what: str, side: int) -> Image.Image:
    """A drawing that anybody may have made, on a white square.

    Args:
        content: of the file.
        what: its name, for the error.
        side: of the square in pixels.

    Returns:
        (side, side) RGB.

    Raises:
        DataError: it is too large, reaches beyond its own file, is no SVG, or draws nothing; a short class stands
            before the colon.
    """
    if len(content) > MAX_BYTES:
        raise DataError(f"file too large: {len(content)} bytes of SVG, at most {MAX_BYTES}")
    if b"<!ENTITY" in content:
        raise DataError("SVG with entities: expected none, since they can unpack to any size")
    outside = _OUTSIDE.search(content)
    if outside:
        got = content[outside.start() : outside.start() + 60].decode(errors="replace")
        raise DataError(f"SVG that reaches outside: expected all in one file, got {got!r}")
    ratio = _ratio(content, what)
    if not 1 / _MOST_RATIO <= ratio <= _MOST_RATIO:
        raise DataError(f"SVG out of shape: {ratio:.2g} times as wide as high, at most {_MOST_RATIO:g}")
    try:
        return render_svg(content, side, what)
    except DataError as error:
        raise DataError(f"does not render: {error}") from None


def _ratio(content: bytes, what: str) -> float:
    """Width by height, of the view box or of the attributes; 1 where the drawing says neither."""
    try:
        _, root = next(iter(ElementTree.iterparse(io.BytesIO(content), events=("start",))))  # noqa: S314, no entities
    except (ElementTree.ParseError, StopIteration) as error:
        raise DataError(f"does not render: {what}: expected an SVG, got {error}") from None
    if root.tag.rpartition("}")[2] != "svg":
        raise DataError(f"does not render: {what}: expected an SVG, got a document of <{root.tag.rpartition('}')[2]}>")
    sides = [_NUMBER.fullmatch(root.get(name, "")) for name in ("width", "height")]
    box = re.split(r"[\s,]+", root.get("viewBox", "").strip())
    numbers = [float(side[1]) for side in sides if side]
    if len(numbers) < 2 and len(box) == 4 and all(_NUMBER.fullmatch(side) for side in box[2:]):
        numbers = [float(side) for side in box[2:]]
    if len(numbers) < 2 or not all(number > 0 for number in numbers):
        return 1.0
    return numbers[0] / numbers[1]
