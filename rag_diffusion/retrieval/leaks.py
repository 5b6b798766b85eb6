"""The leak check: no target, and no near-duplicate of one, stands among its own neighbors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rag_diffusion.arrays import Ints
from rag_diffusion.errors import LineageError
from rag_diffusion.retrieval.drawings import Drawings
from rag_diffusion.retrieval.neighbor_table import NeighborTable
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.types import Prompt


def check_exclusions(table: NeighborTable, corpus: Corpus, prompts: Iterable[Prompt]) -> None:
    """Derive from the corpus again what may not be shown, and look for it in every neighbor list.

    Args:
        table: of this corpus.
        corpus: the knowledge base, with entity, style, split and duplicates of each pair.
        prompts: all prompts of the table.

    Raises:
        LineageError: a pair or a near-duplicate of it is its own neighbor, a neighbor is of a split
            that may not be shown, or a prompt's target stands in one of its lists or is missing
            from its exclusion list.
    """
    drawings = Drawings(corpus)
    splits = corpus.column("split")
    _check_pairs(table.training, corpus, drawings, splits, allowed=("train",))
    _check_pairs(table.validation, corpus, drawings, splits, allowed=("train", "validation"))
    for prompt in prompts:
        _check_prompt(table, corpus, drawings, prompt)


def _check_pairs(
    lists: Mapping[str, Sequence[str]],
    corpus: Corpus,
    drawings: Drawings,
    splits: NDArray[np.object_],
    *,
    allowed: tuple[str, ...],
) -> None:
    for pair_id, neighbors in lists.items():
        who, rows = f"pair {pair_id}", corpus.rows(neighbors)
        own = np.isin(rows, drawings.of_pair(corpus.row(pair_id)))
        _refuse(corpus, rows[own], who, "neither itself nor a near-duplicate")
        outside = ~np.isin(splits[rows].astype(str), allowed)
        _refuse(corpus, rows[outside], who, f"pairs of {' and '.join(allowed)} alone")


def _check_prompt(table: NeighborTable, corpus: Corpus, drawings: Drawings, prompt: Prompt) -> None:
    who = f"prompt {prompt.prompt_id} ({prompt.entity}, {prompt.style})"
    entry = table.prompts.get(prompt.prompt_id)
    if entry is None:
        raise LineageError(f"neighbors: expected an entry of {who}, got none; run the stage `neighbors` again")
    forbidden = drawings.of_prompt(prompt)
    missing = forbidden[~np.isin(forbidden, corpus.rows(entry.exclude))]
    _refuse(corpus, missing, who, "an exclusion list with every drawing of its target", "lacks")
    for name, ids in (
        ("retrieved", entry.retrieved),
        ("oracle", entry.oracle),
        ("random", entry.random),
        ("style", entry.style),
    ):
        rows = corpus.rows(ids)
        _refuse(
            corpus,
            rows[np.isin(rows, forbidden)],
            f"{who}, {name}",
            "neither its target nor a near-duplicate",
        )
    rows = corpus.rows(entry.random)
    wrong = ~drawings.unrelated(prompt)[rows]
    _refuse(corpus, rows[wrong], f"{who}, random", "other families in other styles")
    rows = corpus.rows(entry.style)
    wrong = (drawings.family[rows] == prompt.family) | (drawings.style[rows] != prompt.style)
    _refuse(corpus, rows[wrong], f"{who}, style", "other families in its style")


def _refuse(corpus: Corpus, rows: Ints, who: str, expected: str, verb: str = "has") -> None:
    if len(rows):
        ids = corpus.ids(rows[:3])
        raise LineageError(
            f"neighbors of {who}: expected {expected}, but the list {verb} {ids}: a leak; run the "
            f"stage `neighbors` again"
        )
