"""Contact sheets: prompt, neighbors and result side by side, as a person would look at them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from rag_diffusion.arrays import Pixels

_MARGIN, _GAP, _COLUMNS = 12, 6, 4
_RESULT, _CELL = 128, 96  # pixels that a drawing is shown at, at least: beside its neighbors, in a comparison
_LARGEST = 256  # at most
NOTHING = "no neighbors:\nnot drawn"
_INK, _PALE, _LINE = (32, 32, 32), (120, 120, 120), (214, 214, 214)


@dataclass(frozen=True, kw_only=True)
class Card:
    """One result: its prompt, the N neighbors it was shown (H, W, 3) and the drawing (H, W, 3).

    Without a drawing, since there was no neighbor to show, its place is marked so.
    """

    title: str
    neighbors: Sequence[Pixels]
    neighbor_names: tuple[str, ...]
    image: Pixels | None


def contact_sheet(heading: str, cards: Sequence[Card]) -> Image.Image:
    """All `cards` of a variant in a grid of four columns, below a `heading`; neighbors at half the drawing's side."""
    most = max((len(card.neighbors) for card in cards), default=0)
    across, side = min(most, 3), shown_side([card.image for card in cards], _RESULT)
    width = across * (side // 2 + _GAP) + side + 2 * _MARGIN
    height = side + 44 + _MARGIN
    rows = -(-len(cards) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * width + _MARGIN, rows * height + 48), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, 12), heading, fill=_INK, font=_font(18))
    for number, card in enumerate(cards):
        place = (_MARGIN + number % _COLUMNS * width, 44 + number // _COLUMNS * height)
        _draw_card(sheet, pen, card, place, across, side, width)
    return sheet


def shown_side(images: Iterable[Pixels | None], least: int = _RESULT) -> int:
    """Pixels that drawings are shown at on a sheet.

    Args:
        images: drawings (H, W, 3).
        least: that small ones are scaled up to.

    Returns:
        Their own side where it lies between `least` and 256.
    """
    own = max((image.shape[1] for image in images if image is not None), default=0)
    return min(max(own, least), _LARGEST)


def comparison_sheet(
    heading: str, columns: Sequence[str], titles: Sequence[str], rows: Sequence[Sequence[Pixels | None]]
) -> Image.Image:
    """One row a prompt, one column a variant.

    Args:
        heading: line on top.
        columns: V names.
        titles: R prompts.
        rows: R x V images (H, W, 3); None where a variant has no neighbors to show.
    """
    label, side = 300, shown_side([image for row in rows for image in row], _CELL)
    sheet = Image.new(
        "RGB",
        (label + len(columns) * (side + _GAP) + _MARGIN, 84 + len(rows) * (side + _GAP)),
        "white",
    )
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, 12), heading, fill=_INK, font=_font(18))
    for column, name in enumerate(columns):
        pen.text((label + column * (side + _GAP), 56), name, fill=_INK, font=_font(14))
    for row, (title, images) in enumerate(zip(titles, rows, strict=True)):
        top = 80 + row * (side + _GAP)
        pen.multiline_text((_MARGIN, top + 20), textwrap.fill(title, 38), fill=_INK, font=_font(14))
        for column, image in enumerate(images):
            _paste(sheet, pen, image, (label + column * (side + _GAP), top), side)
    return sheet


def _draw_card(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    card: Card,
    place: tuple[int, int],
    across: int,
    side: int,
    width: int,
) -> None:
    (left, top), thumb = place, side // 2
    for number, image in enumerate(card.neighbors[:across]):
        _paste(sheet, pen, image, (left + number * (thumb + _GAP), top + 8), thumb)
    names = "\n".join(textwrap.shorten(name, 17 * side // 64, placeholder="…") for name in card.neighbor_names[:across])
    pen.multiline_text((left, top + thumb + 12), names, fill=_PALE, font=_font(10 if side < _LARGEST else 13))
    _paste(sheet, pen, card.image, (left + across * (thumb + _GAP), top), side)
    characters = max(20, (width - _MARGIN) // 7)
    pen.multiline_text((left, top + side + 6), textwrap.fill(card.title, characters), fill=_INK, font=_font(13))


def _paste(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, image: Pixels | None, place: tuple[int, int], side: int
) -> None:
    if image is None:
        pen.multiline_text((place[0] + 6, place[1] + side // 2 - 12), NOTHING, fill=_PALE, font=_font(11))
    else:
        picture = Image.fromarray(image)
        if picture.width != side:
            picture = picture.resize((side, side), Image.Resampling.LANCZOS)
        sheet.paste(picture, place)
    pen.rectangle((place[0] - 1, place[1] - 1, place[0] + side, place[1] + side), outline=_LINE)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
