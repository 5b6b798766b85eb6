"""What exhaustive search finds, and the share of it that an index finds."""

from __future__ import annotations

import numpy as np

from rag_diffusion.retrieval.ann import Exhaustive, VectorIndex
from rag_diffusion.retrieval.truth import Truth
from tests.unit.retrieval.made_vectors import unit


def test_recall_tells_a_coarse_index_from_an_exact_one(rng: np.random.Generator) -> None:
    vectors, queries = unit(rng, 1000), unit(rng, 50)
    truth = Truth(vectors, queries)
    assert truth.recall(VectorIndex.build(vectors, "Flat")) == 1.0
    assert truth.recall(VectorIndex.build(vectors, "PQ2x4")) < 0.5


def test_equal_vectors_are_no_misses(rng: np.random.Generator) -> None:
    vectors = np.repeat(unit(rng, 4), 25, axis=0)  # ten hits of 25 equal ones: any ten will do
    index, queries = VectorIndex.build(vectors, "Flat"), unit(rng, 8)
    last_ten = np.argsort(queries @ vectors.T, axis=1, kind="stable")[:, -10:]
    found = index.search(queries, 10)[1]
    assert any(set(one) != set(other) for one, other in zip(found, last_ten, strict=True))
    assert Truth(vectors, queries).recall(index) == 1.0


def test_vectors_in_half_precision_are_compared_as_such(rng: np.random.Generator) -> None:
    vectors, queries = unit(rng, 300).astype(np.float16), unit(rng, 20)
    assert Truth(vectors, queries).recall(Exhaustive(vectors.astype(np.float32))) == 1.0
