from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest

from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.retrieval.ann import VectorIndex, check_factory, inner_products, rising
from tests.unit.retrieval.made_vectors import unit


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


def test_inner_products_are_those_of_numpy_and_none_is_the_least(rng: np.random.Generator) -> None:
    vectors, queries, rows = unit(rng, 50), unit(rng, 2), np.asarray([[3, 7, -1], [49, 0, 5]])
    wanted = np.einsum("qd,qkd->qk", queries, vectors[rows])
    wanted[0, 2] = -np.inf
    np.testing.assert_allclose(inner_products(queries, vectors, rows), wanted, atol=1e-6)
    np.testing.assert_allclose(inner_products(queries, vectors.astype(np.float16), rows), wanted, atol=2e-3)


def test_values_to_try_rise_to_the_most_there_is() -> None:
    assert rising(1) == [1]
    assert rising(10) == [1, 2, 3, 4, 6, 8, 10]
    assert rising(64)[-3:] == [32, 48, 64]


def test_an_index_has_no_parameter_of_another_kind(rng: np.random.Generator) -> None:
    assert VectorIndex.build(unit(rng, 500), "HNSW16").parameters()["efSearch"][-1] == 4096
    index = VectorIndex.build(unit(rng, 500), "IVF4,Flat")
    assert index.parameters() == {"nprobe": [1, 2, 3, 4]}
    with pytest.raises(DataError, match="the parameter efSearch"):
        index.use({"efSearch": 3})


def test_scoring_again_leaves_the_threads_as_they_were() -> None:
    before = faiss.omp_get_max_threads()
    vectors = np.eye(4, dtype=np.float32)
    inner_products(vectors[:1], vectors, np.asarray([[0, 3]]))
    assert faiss.omp_get_max_threads() == before


@pytest.mark.parametrize("factory", ["Nonsense", "AUTO", "flat", "", "HNSW0", "HNSW1", "HNSW1,Flat"])
def test_what_faiss_cannot_make_is_refused_in_its_words(factory: str) -> None:
    with pytest.raises(ConfigError, match=f"expected `auto`, .* got {factory!r}: ") as told:
        check_factory(factory, 16)
    assert "/faiss/" not in str(told.value)
    for possible in ("Flat", "HNSW16", "IVF64,PQ8x4fs", "OPQ8,IVF64,PQ8"):
        check_factory(possible, 16)
