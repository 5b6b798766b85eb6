"""A small pipeline, three prompts and their neighbors."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag_diffusion.models.dual_encoder import create_embedded
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_batch import Neighbor, neighbors_from
from rag_diffusion.retrieval.ann import VectorIndex
from rag_diffusion.retrieval.encoder import Encoder
from rag_diffusion.retrieval.lexical import LexicalIndex
from rag_diffusion.retrieval.retriever import Retriever
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.store.vectors import Vectors
from tests.unit.sampling.prompts import LISTS, quiet


@pytest.fixture
def pipeline(tiny_generator: Generator) -> RetrievalPipeline:
    return quiet(RetrievalPipeline(tiny_generator))


@pytest.fixture
def neighbors(tiny_corpus: Corpus) -> list[list[Neighbor]]:
    return [neighbors_from(tiny_corpus, names) for names in LISTS]


@pytest.fixture(scope="module")
def retriever(tiny_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    """Real towers, heads as they are before training."""
    folder: Path = tmp_path_factory.mktemp("encoder")
    encoder = Encoder(create_embedded(folder, image_size=32, embed_dim=16, seed=0))
    captions = tiny_corpus.table["caption"].tolist()
    image, text = encoder.images(tiny_corpus.pixels()), encoder.texts(captions)
    return Retriever(
        tiny_corpus,
        Vectors(image, text),
        LexicalIndex.build(captions),
        {"text_to_text": VectorIndex.build(text, "Flat"), "text_to_image": VectorIndex.build(image, "Flat")},
        weights={"bm25": 1.0, "text_to_text": 0.0, "text_to_image": 0.0},
        embed=encoder.texts,
        embed_images=encoder.images,
    )
