"""A small corpus drawn on the spot, with entities, styles and a split like the real one."""

from __future__ import annotations

from PIL import Image, ImageDraw

from rag_diffusion.readers.images import encode_png
from rag_diffusion.types import Pair

STYLES = ("emojione", "emojione-v1", "fluent-emoji-flat", "noto", "noto-v1", "openmoji", "twemoji")

_SHAPES = (
    "circle",
    "square",
    "triangle",
    "cross",
    "ring",
    "bar",
    "diamond",
    "dots",
    "moon",
    "stairs",
)

_COLORS = ("red", "green", "blue", "orange", "purple", "black")


def draw(shape: str, color: str, style: int, side: int = 64) -> Image.Image:
    """One drawing; each style has its own background tint, outline and size."""
    size = 64
    image = Image.new("RGB", (size, size), (255, 255 - 6 * style, 255 - 3 * style))
    pen = ImageDraw.Draw(image)
    margin = 8 + 2 * style
    box = (margin, margin, size - margin, size - margin)
    outline = "black" if style % 2 else color
    middle = size // 2
    corners = {
        "triangle": [(margin, size - margin), (middle, margin), (size - margin, size - margin)],
        "diamond": [
            (middle, margin),
            (size - margin, middle),
            (middle, size - margin),
            (margin, middle),
        ],
        "stairs": [
            (margin, size - margin),
            (margin, middle),
            (middle, middle),
            (middle, margin),
            (size - margin, size - margin),
        ],
    }
    if shape in corners:
        pen.polygon(corners[shape], fill=color, outline=outline)
    elif shape in ("circle", "ring", "moon"):
        pen.ellipse(box, fill=None if shape == "ring" else color, outline=outline, width=4)
        if shape == "moon":
            pen.ellipse((middle, margin, size - margin + 8, size - margin), fill="white")
    elif shape == "square":
        pen.rectangle(box, fill=color, outline=outline, width=3)
    elif shape == "dots":
        for x in (margin, middle - 6, size - margin - 12):
            pen.ellipse((x, middle - 6, x + 12, middle + 6), fill=color)
    else:
        pen.rectangle((margin, middle - 5, size - margin, middle + 5), fill=color)
        if shape == "cross":
            pen.rectangle((middle - 5, margin, middle + 5, size - margin), fill=color)
    return image if side == size else image.resize((side, side))


def tiny_pairs(size: int = 64) -> list[Pair]:
    """60 entities (shape x colour) in 7 styles; families are the entities; split 40 / 8 / 12."""
    pairs = []
    for number, (shape, color) in enumerate((shape, color) for shape in _SHAPES for color in _COLORS):
        split = "test" if number % 5 == 0 else "validation" if number % 15 in (1, 7) else "train"
        for index, style in enumerate(STYLES):
            name, title = f"{color}-{shape}", f"{color} {shape}"
            pairs.append(
                Pair(
                    pair_id=f"tiny/{style}/{name}",
                    source=f"tiny/{style}",
                    entity=name,
                    family=name,
                    category=shape,
                    style=style,
                    title=title,
                    caption=f"{title}, {style} style",
                    licence="CC0-1.0",
                    attribution="tests",
                    image=encode_png(draw(shape, color, index, size)),
                    original=None,
                    split=split,
                    duplicate_group=f"tiny/{style}/{name}",
                )
            )
    return pairs
