"""The embedded encoder, and a retriever over made-up vectors."""

from __future__ import annotations

import pytest

from rag_diffusion.models.dual_encoder import DualEncoder, create_embedded
from rag_diffusion.retrieval.retriever import Retriever
from rag_diffusion.store.corpus import Corpus
from tests.unit.retrieval.made import make_retriever


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> DualEncoder:
    """The embedded encoder at 32 px with heads as they are before training. Do not change it."""
    folder = tmp_path_factory.mktemp("encoder")
    return create_embedded(folder, image_size=32, embed_dim=16, seed=0)


@pytest.fixture(scope="session")
def retriever(corpus: Corpus) -> Retriever:
    return make_retriever(corpus)
