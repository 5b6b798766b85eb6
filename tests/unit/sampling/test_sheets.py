"""Contact sheets: every prompt has its place, and what was not drawn is marked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rag_diffusion.sampling.sheets import Card, comparison_sheet, contact_sheet


def test_what_was_not_drawn_is_marked_in_its_place() -> None:
    white = np.full((64, 64, 3), 255, dtype=np.uint8)
    card = Card(title="a cat", neighbors=white[None], neighbor_names=("cat",), image=white)
    without = replace(card, neighbors=white[:0].reshape(0, 64, 64, 3), neighbor_names=(), image=None)
    sheets = [np.asarray(contact_sheet("x", [card, other])) for other in (card, without)]
    assert sheets[0].shape == sheets[1].shape
    assert (sheets[0] != sheets[1]).any()

    rows = [[white, white], [white, None]]
    whole = np.asarray(comparison_sheet("x", ["a", "b"], ["p", "q"], [rows[0], rows[0]])).astype(int)
    marked = np.asarray(comparison_sheet("x", ["a", "b"], ["p", "q"], rows)).astype(int)
    dark = np.argwhere((whole - marked).max(axis=2) > 50)
    assert len(dark) > 50, "words on white"
    assert dark.min(axis=0)[1] > 300 + 96, "in the second column"
    assert dark.min(axis=0)[0] > 80 + 96, "and the second row"
