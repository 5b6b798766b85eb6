"""Made-up vectors of the small corpus, and a retriever over them."""

from __future__ import annotations

import numpy as np

from rag_diffusion.retrieval.ann import VectorIndex
from rag_diffusion.retrieval.lexical import LexicalIndex
from rag_diffusion.retrieval.method import Method
from rag_diffusion.retrieval.retriever import Retriever
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.store.vectors import Vectors

WEIGHTS = {"bm25": 0.5, "text_to_text": 0.3, "text_to_image": 0.2}


def random_vectors(corpus: Corpus, seed: int = 0, dim: int = 12) -> Vectors:
    """Unit vectors: one direction per entity plus noise."""
    rng = np.random.default_rng(seed)
    centre = {name: rng.normal(size=dim) for name in sorted(corpus.table["entity"].unique())}

    def draw() -> np.ndarray:
        rows = np.stack([centre[name] for name in corpus.table["entity"]])
        rows = rows + 0.4 * rng.normal(size=rows.shape)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    return Vectors(draw(), draw())


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
