"""What `thresholding="palette"` draws an image with: the palette of the style that its prompt asks for.

    no style named             palette, in the colours that the drawing has by itself
    a style in flat colours    palette, in the colours of that style
    a shaded style             static

Both are read off the style's pairs in the knowledge base, of the train split where it has any; see `colours`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import ImageColor

from rag_diffusion.arrays import Ints, Pixels
from rag_diffusion.colours import is_shaded, style_palette
from rag_diffusion.models.neighbor_batch import Picture
from rag_diffusion.sampling.inputs import style_neighbors
from rag_diffusion.sampling.threshold import Thresholding
from rag_diffusion.store.pairs import Pairs

Chosen = tuple[Thresholding, Pixels | None]
NUM_COLORS = 24
COLOUR = "^#[0-9a-fA-F]{6}$"  # what a form or a request may name a colour by, and no file
_MOST = 300  # pairs that a palette is read off
_SIZE = 64  # pixels, of pictures by hand


@dataclass(frozen=True, kw_only=True, eq=False)
class StylePalettes:
    """Palettes of the styles of some pairs, each made when it is first asked for.

    Attributes:
        pairs: the knowledge base.
    """

    pairs: Pairs
    _made: dict[str, Chosen] = field(default_factory=dict)

    def choose(self, text: str, style: str | None = None) -> Chosen:
        """Thresholding and palette, (P, 3) sRGB, of an image.

        Args:
            text: its prompt.
            style: the one asked for, by its name or words; None takes what `text` names.
        """
        named = self.pairs.style_named_in(text if style is None else style)
        return ("palette", None) if named is None else self._of(named)

    def _of(self, style: str) -> Chosen:
        if style not in self._made:
            pictures = self.pairs.pixels(self._rows(style))
            if not len(pictures):
                return "palette", None
            shaded = is_shaded(pictures)
            self._made[style] = ("static", None) if shaded else ("palette", style_palette(pictures, NUM_COLORS, seed=0))
        return self._made[style]

    def _rows(self, style: str) -> Ints:
        """Rows of at most `_MOST` pairs of a style, evenly over all of them."""
        rows = np.flatnonzero(self.pairs.column("style") == style)
        train = rows[self.pairs.column("split")[rows] == "train"]
        rows = train if len(train) else rows
        chosen: Ints = rows[np.linspace(0, len(rows) - 1, min(_MOST, len(rows))).astype(np.int64)]
        return chosen


def as_palette(given: Sequence[str | Path | Picture]) -> Pixels:
    """Colours by hand.

    Args:
        given: each as "#dd2e44"; or pictures, or names of image files, whose colours are read off them.

    Returns:
        (P, 3) sRGB.

    Raises:
        ValueError: there is none, or one is neither.
        DataError: a file is none that is read.

    Examples:
        >>> from rag_diffusion.sampling.style_palettes import as_palette
        >>> as_palette(["#dd2e44", "#ffffff"]).tolist()
        [[221, 46, 68], [255, 255, 255]]
    """
    entries = [given] if isinstance(given, str | Path) else list(given)
    if not entries:
        raise ValueError("colours: expected some as '#dd2e44', or pictures to read them off, got none")
    texts = [entry for entry in entries if isinstance(entry, str) and entry.startswith("#")]
    if len(texts) == len(entries):
        return np.array([_rgb(text) for text in texts], dtype=np.uint8)
    if texts:
        raise ValueError(f"colours: expected colours or pictures, got both, {texts[0]!r} and {len(entries) - 1} others")
    pictures = [neighbor.pixels((_SIZE, _SIZE)) for neighbor in style_neighbors(entries, "", "colours")]
    return style_palette(np.stack(pictures), NUM_COLORS, seed=0)


def as_texts(palette: Pixels) -> list[str]:
    """Colours of a `palette` (P, 3) as "#rrggbb"."""
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in palette.tolist()]


def _rgb(text: str) -> tuple[int, ...]:
    try:
        return ImageColor.getrgb(text)[:3]
    except ValueError as error:
        raise ValueError(f"colours: expected them as '#dd2e44', got {text!r}") from error
