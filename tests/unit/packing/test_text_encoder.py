"""The small text encoder of a pack."""

from __future__ import annotations

from pathlib import Path

import torch

from rag_diffusion.models.text_encoder import TextEncoder
from rag_diffusion.packing.text_encoder import prune, restore


def test_a_pruned_text_encoder_says_the_same_of_its_texts(tmp_path: Path) -> None:
    texts = ["a red apple, Noto style", "", "Twemoji emoji of a taco"]
    kept = prune(texts, tmp_path / "small")
    size = sum(path.stat().st_size for path in (tmp_path / "small").iterdir())
    assert kept < 60
    assert size < 24e6
    small, whole = TextEncoder(str(restore(tmp_path / "small"))), TextEncoder()
    one, other = small(texts), whole(texts)
    assert torch.equal(one.mask, other.mask)
    torch.testing.assert_close(one.states, other.states, atol=0.02, rtol=0)
