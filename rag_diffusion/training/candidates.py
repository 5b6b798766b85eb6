"""Content neighbors of training pairs without a retriever: other drawings of the same entity.

Right neighbors train as well as retrieved ones (benchmarks/2026-11-23-ablations.md), and a corpus of a hundred
thousand pairs need not be ranked for them. Drawings of another source stand first: the manners of one set (thin,
bold, filled) lie on each other line by line, and a model that is shown them learns to trace.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection

import numpy as np

from rag_diffusion.corpus.captions import stable_hash
from rag_diffusion.store.corpus import Corpus

_KEPT = 12


def same_entity(corpus: Corpus, first_styles: Collection[str] = ()) -> dict[str, list[str]]:
    """Training pair -> other training pairs of its entity in other styles, best first, in an order that is always the
    same.

    Args:
        corpus: its train split alone is read.
        first_styles: a pair in one of these styles is shown those of them before any other.

    Returns:
        An entry for each training pair; its list is empty where the entity has no other drawing.
    """
    train = np.flatnonzero(corpus.column("split") == "train")
    salt = [stable_hash(name) for name in corpus.ids(train)]
    columns = [corpus.cells(name, train) for name in ("entity", "pair_id", "source", "style", "duplicate_group")]
    groups: dict[str, list[tuple[str, str, str, str, int]]] = {}
    for entity, name, source, style, group, number in zip(*columns, salt, strict=True):
        groups.setdefault(entity, []).append((name, source, style, group, number))
    candidates: dict[str, list[str]] = {}
    for drawings in groups.values():
        for pair_id, source, style, group, number in drawings:
            others = [
                (style in first_styles and style_ not in first_styles, source_ == source, number_ ^ number, pair_id_)
                for pair_id_, source_, style_, group_, number_ in drawings
                if style_ != style and group_ != group
            ]
            candidates[pair_id] = [other[-1] for other in heapq.nsmallest(_KEPT, others)]
    return candidates
