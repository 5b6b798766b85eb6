"""Rollouts of many clips at once: frame n of all of them in one call of the pipeline.

Each clip has a memory of its own and the same rule as `RetrievalPipeline.rollout`; batches cost less than clips one
after the other.

Shapes: C clips, N frames, H/W picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rag_diffusion.arrays import Pixels
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.progress import Progress
from rag_diffusion.sampling.clip_frames import frame_neighbors
from rag_diffusion.sampling.frame_memory import Frame, FrameMemory
from rag_diffusion.sampling.frame_text import frame_prompt
from rag_diffusion.sampling.output import as_arrays
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.seeds import seeded


@dataclass(frozen=True, kw_only=True)
class ClipVariant:
    """What the next frame is drawn from.

    Attributes:
        num_last: last frames.
        num_retrieved: earlier ones, as the memory finds them: the first frame, then those of a like look.
        num_pairs: pairs of the knowledge base.
        first_weight: how much the first frame counts.
        strength: above 0: the last frame is noised so far and denoised again, SDEdit.
        copies: the first frame stays as it is.
    """

    num_last: int = 0
    num_retrieved: int = 0
    num_pairs: int = 0
    first_weight: float = 1.0
    strength: float = 0.0
    copies: bool = False


VARIANTS: Mapping[str, ClipVariant] = {
    "none": ClipVariant(),
    "last": ClipVariant(num_last=1),
    "first": ClipVariant(num_last=1, num_retrieved=1),
    "retrieved": ClipVariant(num_last=1, num_retrieved=2),
    "knowledge": ClipVariant(num_last=1, num_retrieved=2, num_pairs=1),
    "still": ClipVariant(copies=True),
    "sdedit": ClipVariant(strength=0.4),
}


@dataclass(frozen=True, kw_only=True)
class ClipTask:
    """A clip to go on with: its text, its first frame (H, W, 3), a seed, and pairs of the knowledge base."""

    prompt: str
    first: Pixels
    seed: int
    pairs: tuple[Neighbor, ...] = ()


def roll_out(
    pipeline: RetrievalPipeline,
    tasks: Sequence[ClipTask],
    variant: ClipVariant,
    *,
    num_frames: int,
    batch_size: int = 24,
    fresh_noise: bool = False,
    **options: Any,
) -> Pixels:
    """Draw what follows the first frames.

    Args:
        pipeline: draws.
        tasks: C.
        variant: what frames are drawn from.
        num_frames: N, the first one counted.
        batch_size: clips at once.
        fresh_noise: whether each frame has noise of its own; otherwise those of a clip share it.
        **options: of the pipeline's call.

    Returns:
        (C, N, H, W, 3).
    """
    first = np.stack([task.first for task in tasks])
    if variant.copies:
        return np.repeat(first[:, None], num_frames, axis=1)
    parts = []
    with Progress(total=len(tasks) * (num_frames - 1), desc="drawing frames", unit="img") as shown:
        for start in range(0, len(tasks), batch_size):
            clips = [[task.first] for task in tasks[start : start + batch_size]]
            memories = [FrameMemory() for _ in clips]
            for number in range(2, num_frames + 1):
                for memory, frames in zip(memories, clips, strict=True):
                    memory.add(Frame(number=number - 1, pixels=frames[-1]))
                batch = tasks[start : start + batch_size]
                drawn = _next(pipeline, batch, memories, variant, number, num_frames, fresh_noise, options)
                for frames, pixels in zip(clips, drawn, strict=True):
                    frames.append(pixels)
                shown.update(len(clips))
            parts += [np.stack(frames) for frames in clips]
    return np.stack(parts)


def _next(
    pipeline: RetrievalPipeline,
    tasks: Sequence[ClipTask],
    memories: Sequence[FrameMemory],
    variant: ClipVariant,
    number: int,
    num_frames: int,
    fresh_noise: bool,
    options: Mapping[str, Any],
) -> Pixels:
    begin: dict[str, Any] = {}
    if variant.strength:
        begin = {"image": [list(memory)[-1].pixels for memory in memories], "strength": variant.strength}
    drawn = pipeline(
        [frame_prompt(task.prompt, number, num_frames) for task in tasks],
        [_shown(task, memory, variant, number) for task, memory in zip(tasks, memories, strict=True)],
        generator=seeded([task.seed + (number if fresh_noise else 0) for task in tasks]),
        **begin,
        **options,
    )
    return as_arrays(drawn.images)


def _shown(task: ClipTask, memory: FrameMemory, variant: ClipVariant, number: int) -> list[Neighbor]:
    frames = memory.select(num_last=variant.num_last, num_retrieved=variant.num_retrieved) if variant.num_last else []
    named = frame_neighbors(task.prompt, number, frames, variant.first_weight)
    own = [replace(one, pair_id="") for one in named]  # each clip of the batch has a frame 1 of its own
    return own + list(task.pairs[: variant.num_pairs])
