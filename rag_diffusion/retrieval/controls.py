"""Which prompts a variant can answer: where it is to be shown neighbors and there are none, it is no variant at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rag_diffusion.arrays import Ints
from rag_diffusion.errors import LineageError
from rag_diffusion.retrieval.neighbor_table import PromptNeighbors
from rag_diffusion.types import Prompt

SHOWN = {  # by variant: which list of neighbors conditions it
    "random": "random",
    "retrieved": "retrieved",
    "oracle": "oracle",
    "real_degraded": "retrieved",
    "copied": "retrieved",
    "copied_best": "retrieved",
    "copied_snap": "retrieved",
}
_WHY = {
    "random": "the corpus has no pair of another family than the prompt's own",
    "retrieved": "retrieval found nothing that may be shown; lower retrieval.threshold",
    "oracle": "no other pair of the corpus shows the prompt's entity; give pairs of one thing the same `entity`",
}


def shown_to(variant: str, found: PromptNeighbors) -> tuple[str, ...]:
    """Pair ids of the neighbors that a prompt has in a variant; none for one that is shown no neighbors."""
    return tuple(getattr(found, SHOWN[variant])) if variant in SHOWN else ()


def answered(variant: str, prompts: Sequence[Prompt], neighbors: Mapping[str, PromptNeighbors]) -> Ints:
    """Numbers of the prompts that a variant can answer: those with neighbors, or all where it is shown none.

    Raises:
        LineageError: a prompt is not in the table of neighbors.
    """
    missing = [prompt.prompt_id for prompt in prompts if prompt.prompt_id not in neighbors]
    if missing:
        raise LineageError(
            f"neighbors: expected neighbors of every prompt, got none for {missing[:3]}; run the stage `neighbors`"
        )
    if variant not in SHOWN:
        return np.arange(len(prompts))
    return np.flatnonzero([bool(shown_to(variant, neighbors[prompt.prompt_id])) for prompt in prompts])


def why_without(variant: str) -> str:
    """Why a prompt has no neighbors in a variant, in words."""
    return _WHY[SHOWN[variant]]
