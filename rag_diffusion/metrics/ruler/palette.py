"""Repainting: pictures in the palette of another style than theirs, as a careless protocol would reward."""

from __future__ import annotations

import numpy as np

from rag_diffusion.arrays import Ints, Pixels
from rag_diffusion.colours import snap, style_palette
from rag_diffusion.progress import progress


def repaint(pixels: Pixels, labels: Ints, *, seed: int, num_colors: int = 24) -> Pixels:
    """Every image (n, H, W, 3) in the palette of a style that is not its own, so that a scorer may see through it.

    Args:
        pixels: train images.
        labels: (n,) their style numbers 0 .. s-1.
        seed: of palettes and of the styles drawn.
        num_colors: of each palette.

    Returns:
        (n, H, W, 3).
    """
    count = int(labels.max()) + 1
    palettes = [style_palette(pixels[labels == number], num_colors, seed=seed) for number in range(count)]
    others = (labels + np.random.default_rng(seed).integers(1, count, len(labels))) % count
    rows = progress(zip(pixels, others, strict=True), total=len(pixels), desc="repaint train images", unit="image")
    return np.stack([snap(image, palettes[other]) for image, other in rows])
