"""Pictures repainted in the palette of another style."""

from __future__ import annotations

import numpy as np

from rag_diffusion.metrics.ruler.palette import repaint
from tests.unit.test_colours import RED, WHITE, halves

DARK_RED = (120, 10, 10)


def test_repainting_uses_the_palette_of_another_style() -> None:
    pixels = np.stack([halves(RED, WHITE)] * 3 + [halves(DARK_RED, WHITE)] * 3)
    out = repaint(pixels, np.array([0, 0, 0, 1, 1, 1]), seed=0, num_colors=4)
    assert np.array_equal(out[0], halves(DARK_RED, WHITE))
    assert np.array_equal(out[5], halves(RED, WHITE))
