from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.retrieval.ann import VectorIndex, recall


def unit(rng: np.random.Generator, count: int, dim: int = 16) -> np.ndarray:
    rows = rng.normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_index_survives_the_disk(rng: np.random.Generator, tmp_path: Path) -> None:
    vectors, queries = unit(rng, 50), unit(rng, 4)
    index = VectorIndex.build(vectors, "Flat")
    index.save(tmp_path / "a.index")
    again = VectorIndex.load(tmp_path / "a.index")
    assert len(again) == 50
    np.testing.assert_array_equal(again.search(queries, 5)[1], index.search(queries, 5)[1])


def test_more_hits_than_vectors_are_cut(rng: np.random.Generator) -> None:
    scores, rows = VectorIndex.build(unit(rng, 5), "Flat").search(unit(rng, 2), 100)
    assert scores.shape == rows.shape == (2, 5)
    assert sorted(rows[0]) == [0, 1, 2, 3, 4]
    assert (np.diff(scores, axis=1) <= 0).all()


def test_recall_tells_a_coarse_index_from_an_exact_one(rng: np.random.Generator) -> None:
    vectors, queries = unit(rng, 1000), unit(rng, 50)
    assert recall(VectorIndex.build(vectors, "Flat"), vectors, queries) == 1.0
    assert recall(VectorIndex.build(vectors, "PQ2x4"), vectors, queries) < 0.5


def test_equal_vectors_are_no_misses(rng: np.random.Generator) -> None:
    vectors = np.repeat(unit(rng, 4), 25, axis=0)  # ten hits of 25 equal ones: any ten will do
    index, queries = VectorIndex.build(vectors, "Flat"), unit(rng, 8)
    last_ten = np.argsort(queries @ vectors.T, axis=1, kind="stable")[:, -10:]
    found = index.search(queries, 10)[1]
    assert any(set(one) != set(other) for one, other in zip(found, last_ten, strict=True))
    assert recall(index, vectors, queries) == 1.0


def test_unknown_factory_is_refused_by_name(rng: np.random.Generator) -> None:
    with pytest.raises(ConfigError, match=r"index.factory: .*'Flatt'.*`Flat` always works"):
        VectorIndex.build(unit(rng, 50), "Flatt")
    with pytest.raises(ConfigError, match=r"for 50 vectors of width 16, got 'IVF64,Flat'"):
        VectorIndex.build(unit(rng, 50), "IVF64,Flat")


def test_missing_or_damaged_index_is_refused(tmp_path: Path) -> None:
    for content in (None, b"", b"not an index at all"):
        if content is not None:
            (tmp_path / "a.index").write_bytes(content)
        with pytest.raises(DataError, match=r"expected a faiss index.*run the stage `index`"):
            VectorIndex.load(tmp_path / "a.index")
