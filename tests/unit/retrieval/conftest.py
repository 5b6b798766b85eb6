"""Fixtures for retrieval: the embedded encoder, a corpus with duplicates, made-up vectors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rag_diffusion.models.dual_encoder import DualEncoder, create_embedded
from rag_diffusion.retrieval.ann import VectorIndex
from rag_diffusion.retrieval.lexical import LexicalIndex
from rag_diffusion.retrieval.retriever import Method, Retriever
from rag_diffusion.store.corpus import Corpus, write_corpus
from rag_diffusion.store.vectors import Vectors
from tests.conftest import tiny_pairs

WEIGHTS = {"bm25": 0.5, "text_to_text": 0.3, "text_to_image": 0.2}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> DualEncoder:
    """The embedded encoder at 32 px with heads as they are before training. Do not change it."""
    folder = tmp_path_factory.mktemp("encoder")
    return create_embedded(folder, image_size=32, embed_dim=16, seed=0)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The tiny corpus; noto and noto-v1 draw every square alike."""
    pairs = [
        replace(pair, duplicate_group=f"alike/{pair.entity}")
        if pair.style in ("noto", "noto-v1") and pair.category == "square"
        else pair
        for pair in tiny_pairs()
    ]
    path = tmp_path_factory.mktemp("duplicates") / "data" / "corpus"
    write_corpus(path, pairs, image_size=64, facts={"rejected": [], "kind": "iconify"})
    return Corpus.open(path)


def random_vectors(corpus: Corpus, seed: int = 0, dim: int = 12) -> Vectors:
    """Unit vectors: one direction per entity plus noise."""
    rng = np.random.default_rng(seed)
    centre = {name: rng.normal(size=dim) for name in sorted(corpus.table["entity"].unique())}

    def draw() -> np.ndarray:
        rows = np.stack([centre[name] for name in corpus.table["entity"]])
        rows = rows + 0.4 * rng.normal(size=rows.shape)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    return Vectors(image=draw(), text=draw(), corpus_hash=corpus.hash, encoder_hash="none")


def make_retriever(
    corpus: Corpus, weights: dict[str, float] | Method | None = None, factory: str = "Flat"
) -> Retriever:
    """A retriever over random vectors; the vector of a text is that of the caption it equals."""
    vectors = random_vectors(corpus)
    captions = {text: row for row, text in enumerate(corpus.table["caption"])}
    return Retriever(
        corpus,
        vectors,
        LexicalIndex.build(corpus.table["caption"].tolist()),
        {
            "text_to_text": VectorIndex.build(vectors.text, factory),
            "text_to_image": VectorIndex.build(vectors.image, factory),
        },
        weights=weights or WEIGHTS,
        embed=lambda texts: vectors.text[[captions.get(text, 0) for text in texts]],
    )


@pytest.fixture(scope="session")
def retriever(corpus: Corpus) -> Retriever:
    return make_retriever(corpus)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder."""
    path = tmp_path / "artifact"
    path.mkdir()
    return path
