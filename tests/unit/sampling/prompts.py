"""Three prompts, their neighbors, and a drawing of few steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from rag_diffusion.models.generator import Generator
from rag_diffusion.models.unet import RetrievalUNet
from rag_diffusion.sampling.output import as_arrays
from rag_diffusion.sampling.pipeline import RetrievalPipeline

PROMPTS = ["red circle, noto style", "blue ring, twemoji style", "green bar, openmoji style"]

LISTS = [["tiny/noto/red-circle", "tiny/twemoji/red-circle"], ["tiny/noto/blue-ring"], []]


def quiet(pipeline: RetrievalPipeline) -> RetrievalPipeline:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def ours(theirs: Any, **more: Any) -> RetrievalPipeline:
    """Over the parts of a pipeline of diffusers, with neighbor attention of random weights."""
    torch.manual_seed(1)
    pipe = quiet(RetrievalPipeline.from_pipe(theirs, neighbor_skips=(1,), neighbor_head_dim=16, **more))
    pipe.unet.randomize_output(0.5)
    return pipe


def with_roles(generator: Generator) -> Generator:
    """The same with an untrained network that tells content and style neighbors apart."""
    config = {name: value for name, value in generator.unet.config.items() if not name.startswith("_")}
    return replace(generator, unet=RetrievalUNet(**(config | {"neighbor_roles": True})).eval())


def draw(pipeline: RetrievalPipeline, *args: Any, **kwargs: Any) -> np.ndarray:
    return as_arrays(pipeline(*args, num_inference_steps=4, **kwargs).images)
