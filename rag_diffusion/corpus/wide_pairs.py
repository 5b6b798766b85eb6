"""From a drawing of the wide corpus to its pair: the colour it gets, the words that describe it, the pixels."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from rag_diffusion.arrays import Pixels
from rag_diffusion.corpus.captions import choose, stable_hash
from rag_diffusion.corpus.icon_sets import Drawing
from rag_diffusion.corpus.look import ink, upright
from rag_diffusion.corpus.wide_source import SetCard
from rag_diffusion.errors import DataError
from rag_diffusion.readers.caption_text import with_article
from rag_diffusion.readers.images import encode_png, render_svg
from rag_diffusion.types import Pair

Colours = Literal["entity", "drawing", "black"]

ICON_TEMPLATES = (
    "{title} icon, {style} style",
    "{a_title}, {style} icon",
    "icon of {a_title} in the {style} style",
    "{style} icon: {title}",
    "{title}, drawn as {style} icons are",
    "a drawing of {a_title}, {style} style",
)
COLOURED_TEMPLATES = (
    "{colour} {title} icon, {style} style",
    "{a_title} in {colour}, {style} icon",
    "icon of {a_title} in the {style} style, {colour}",
    "{style} icon: {title}, {colour}",
    "{title}, all {colour}, drawn as {style} icons are",
    "{colour} drawing of {a_title}, {style} style",
)
_SHARED = 0.7  # of an entity's monochrome drawings have its colour
_NAMED = 0.5  # of the captions of monochrome drawings name the colour
THUMBNAIL = 16  # pixels


@dataclass(frozen=True, kw_only=True)
class JoinedDrawing:
    """A drawing that has been joined with others.

    Attributes:
        drawing: the drawing.
        entity: what it shows.
        title: the entity in words.
        family: entities that must stay in one split share it.
        split: where it may be used.
        twin: the first drawing with the very same lines, whatever it is called.
        found_by: which check found that it shows a held-out entity, `words` or `code_point`; empty where none did.
        alone: whether its name tells of nothing beside that entity.
    """

    drawing: Drawing
    entity: str
    title: str
    family: str
    split: str
    twin: str
    found_by: str = ""
    alone: bool = False


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A pair and what its drawing is compared by.

    Attributes:
        pair: the pair.
        colours: of `THUMBNAIL` pixels square.
        ink: of the same pixels: 1 where the drawing is, whatever its colour.
        shape: the ink where it is, whatever its place and size, see `look.upright`.
        monochrome: whether the colour was chosen here.
        found_by: which check found that it shows a held-out entity.
        alone: whether its name tells of nothing beside that entity.
    """

    pair: Pair
    colours: Pixels
    ink: Pixels
    shape: Pixels
    monochrome: bool
    found_by: str
    alone: bool


def colour_of(entity: str, where: str, colours: Mapping[str, str], how: Colours) -> str:
    """Name of the colour of a monochrome drawing.

    Args:
        entity: what it shows.
        where: which drawing it is.
        colours: colours by name.
        how: `entity`: most drawings of an entity share a colour, so that it can be read from others of them;
            `drawing`: each has its own; `black`: none has any.
    """
    if how == "black":
        return "black"
    shared = how == "entity" and stable_hash(f"{where}:shared") / 2**64 < _SHARED
    return choose(sorted(colours), f"{entity}:colour" if shared else f"{where}:colour")


def _caption_of(title: str, style: str, colour: str, where: str) -> str:
    """Caption of a drawing; half of those that have a colour name it.

    Args:
        title: what it shows.
        style: its manner in words.
        colour: in words; empty where it has many.
        where: its id, which the words depend on.
    """
    named = colour and stable_hash(f"{where}:named") / 2**64 < _NAMED
    template = choose(COLOURED_TEMPLATES if named else ICON_TEMPLATES, f"{where}:caption")
    return template.format(title=title, a_title=with_article(title), style=style, colour=colour)


def style_words(card: SetCard, drawing: Drawing) -> str:
    """The manner in words, e.g. `Phosphor duotone`, of a `drawing` of the set of `card`."""
    return f"{card.words} {drawing.reading.words}".strip()


def render(drawn: tuple[JoinedDrawing, SetCard], size: int, colours: Mapping[str, str], how: Colours) -> Rendered | str:
    """The pair of a drawing of a set, or the reason why there is none.

    Args:
        drawn: the drawing, and whose its set is.
        size: side of the image in pixels.
        colours: name -> hexadecimal value.
        how: what the colour of a monochrome drawing depends on.
    """
    placed, card = drawn
    drawing = placed.drawing
    colour = colour_of(placed.entity, drawing.where, colours, how) if drawing.monochrome else ""
    svg = drawing.svg.replace("currentColor", colours.get(colour, "#000000")).encode()
    try:
        image = render_svg(svg, size, drawing.where)
    except DataError as error:
        return f"draws nothing: {error}" if "empty" in str(error) else f"does not render: {error}"
    pair = Pair(
        pair_id=f"iconify/{drawing.where}",
        source=f"iconify/{drawing.prefix}",
        entity=placed.entity,
        family=placed.family,
        category=drawing.category,
        style=drawing.style,
        title=placed.title,
        caption=_caption_of(placed.title, style_words(card, drawing), colour, drawing.where),
        licence=card.licence,
        attribution=card.attribution,
        image=encode_png(image),
        original=svg,
        split=placed.split,
        duplicate_group=f"iconify/{placed.twin}",
    )
    small = np.asarray(image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
    return Rendered(
        pair=pair,
        colours=small.ravel(),
        ink=ink(small).ravel(),
        shape=upright(np.asarray(image)),
        monochrome=drawing.monochrome,
        found_by=placed.found_by,
        alone=placed.alone,
    )


def pixels_of(pair: Pair) -> Pixels:
    """(H, W, 3) RGB of `pair`."""
    with Image.open(io.BytesIO(pair.image)) as image:
        return np.asarray(image.convert("RGB"))
