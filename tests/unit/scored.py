"""What prompts of the small corpus are shown, for scoring."""

from __future__ import annotations

import numpy as np

from rag_diffusion.retrieval.neighbor_table import PromptNeighbors
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.types import Hits, Prompt

EPOCHS = 4


def validation_lists(corpus: Corpus) -> dict[str, Hits]:
    """Of each validation pair its entity in other styles."""
    held = corpus.table[corpus.table["split"] == "validation"]
    lists = {
        row.pair_id: [other for other in held.loc[held["entity"] == row.entity, "pair_id"] if other != row.pair_id]
        for row in held.itertuples()
    }
    return {name: Hits(pair_ids=tuple(ids), scores=(1.0,) * len(ids), parts={}) for name, ids in lists.items()}


def shown_for(prompt: Prompt, corpus: Corpus) -> PromptNeighbors:
    """Two drawings of the entity, then one of another; the oracle sees the same two and a third."""
    table = corpus.table
    own = table[(table["entity"] == prompt.entity) & (table["style"] != prompt.style)]["pair_id"].tolist()
    target = table[(table["entity"] == prompt.entity) & (table["style"] == prompt.style)]["pair_id"].tolist()
    others = table[(table["family"] != prompt.family) & (table["style"] != prompt.style)]["pair_id"].tolist()
    start = prompt.seed % (len(others) - 3)
    return PromptNeighbors(exclude=tuple(target), retrieved=(*own[:2], others[start]), scores=(0.9, 0.8, 0.1), parts={},
                           oracle=tuple(own[:3]), random=tuple(others[start : start + 3]))  # fmt: skip


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Images of nothing."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
