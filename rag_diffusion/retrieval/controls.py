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
    "retrieved": "retrieval found nothing that may be shown; lower retrieval.thresholds",
    "oracle": "no other pair of the corpus shows the prompt's entity; give pairs of one thing the same `entity`",
}


def shown_to(variant: str, entry: PromptNeighbors) -> tuple[str, ...]:
    """Pair ids of the neighbors that a prompt of the entry `entry` has in a `variant`; none where it is shown none."""
    return tuple(getattr(entry, SHOWN[variant])) if variant in SHOWN else ()


def answered(variant: str, prompts: Sequence[Prompt], neighbors: Mapping[str, PromptNeighbors]) -> Ints:
    """Numbers of the `prompts` that a `variant` can answer: those with `neighbors`, or all where it is shown none.

    The variant `retrieved` answers all once it has neighbors of one: where nothing passes `retrieval.thresholds`, it
    draws by the text alone, as every user's drawing does.

    Args:
        variant: a name of `SHOWN`, or of a variant without neighbors.
        prompts: P of them.
        neighbors: entries of the table by prompt id.

    Returns:
        (n,) places among the prompts, rising.

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
    answers = [bool(shown_to(variant, neighbors[prompt.prompt_id])) for prompt in prompts]
    return np.arange(len(prompts)) if variant == "retrieved" and any(answers) else np.flatnonzero(answers)


def why_without(variant: str) -> str:
    """Why a prompt has no neighbors in a `variant`, in words."""
    return _WHY[SHOWN[variant]]
