"""Pictures repainted in the palette of another style."""

from __future__ import annotations

import numpy as np

from rag_diffusion.metrics.ruler.palette import repaint

RED, DARK_RED, WHITE = (200, 30, 30), (120, 10, 10), (255, 255, 255)


def halves(*colours: tuple[int, int, int]) -> np.ndarray:
    """(8, 8, 3): left and right of one colour each."""
    return np.repeat(np.array(colours, dtype=np.uint8), 4, axis=0)[None].repeat(8, axis=0)


def test_repainting_uses_the_palette_of_another_style() -> None:
    pixels = np.stack([halves(RED, WHITE)] * 3 + [halves(DARK_RED, WHITE)] * 3)
    out = repaint(pixels, np.array([0, 0, 0, 1, 1, 1]), seed=0, num_colors=4)
    assert np.array_equal(out[0], halves(DARK_RED, WHITE))
    assert np.array_equal(out[5], halves(RED, WHITE))
