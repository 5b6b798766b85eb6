"""A small pipeline, three prompts and their neighbors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_batch import Neighbor, neighbors_from
from rag_diffusion.sampling.output import as_arrays
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.store.corpus import Corpus

PROMPTS = ["red circle, noto style", "blue ring, twemoji style", "green bar, openmoji style"]
LISTS = [["tiny/noto/red-circle", "tiny/twemoji/red-circle"], ["tiny/noto/blue-ring"], []]


@pytest.fixture
def pipeline(tiny_generator: Generator) -> RetrievalPipeline:
    return quiet(RetrievalPipeline(tiny_generator))


@pytest.fixture
def neighbors(tiny_corpus: Corpus) -> list[list[Neighbor]]:
    return [neighbors_from(tiny_corpus, names) for names in LISTS]


def quiet(pipeline: RetrievalPipeline) -> RetrievalPipeline:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: RetrievalPipeline, *args: Any, **kwargs: Any) -> np.ndarray:
    return as_arrays(pipeline(*args, num_inference_steps=4, **kwargs).images)
