"""Three prompts, their neighbors, and a drawing of few steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from rag_diffusion.sampling.output import as_arrays
from rag_diffusion.sampling.pipeline import RetrievalPipeline

PROMPTS = ["red circle, noto style", "blue ring, twemoji style", "green bar, openmoji style"]

LISTS = [["tiny/noto/red-circle", "tiny/twemoji/red-circle"], ["tiny/noto/blue-ring"], []]


def quiet(pipeline: RetrievalPipeline) -> RetrievalPipeline:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: RetrievalPipeline, *args: Any, **kwargs: Any) -> np.ndarray:
    return as_arrays(pipeline(*args, num_inference_steps=4, **kwargs).images)
