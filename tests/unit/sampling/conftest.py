"""A small pipeline, three prompts and their neighbors."""

from __future__ import annotations

import pytest

from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_batch import Neighbor, neighbors_from
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.store.corpus import Corpus
from tests.unit.sampling.prompts import LISTS, quiet


@pytest.fixture
def pipeline(tiny_generator: Generator) -> RetrievalPipeline:
    return quiet(RetrievalPipeline(tiny_generator))


@pytest.fixture
def neighbors(tiny_corpus: Corpus) -> list[list[Neighbor]]:
    return [neighbors_from(tiny_corpus, names) for names in LISTS]
