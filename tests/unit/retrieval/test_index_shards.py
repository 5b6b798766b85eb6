"""Indexes in shards give the hits of one index, and tell what is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from rag_diffusion.config import Config, IndexConfig
from rag_diffusion.errors import DataError, LineageError
from rag_diffusion.retrieval.ann import Exhaustive
from rag_diffusion.retrieval.index_shards import SHARDS_FILE, BuildShard, build_shards, open_shards
from rag_diffusion.retrieval.indexes import INDEX_FILES
from rag_diffusion.store.vectors import VECTORS_FILE, Vectors

ROWS = 101


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    rng = np.random.default_rng(0)
    image, text = (rng.normal(size=(ROWS, 8)).astype(np.float32) for _ in range(2))
    image[60] = image[5]  # equal scores in two shards
    return Vectors(*(one / np.linalg.norm(one, axis=1, keepdims=True) for one in (image, text)))


@pytest.fixture
def built(vectors: Vectors, default_config: Config, tmp_path: Path) -> Path:
    vectors.save(tmp_path / VECTORS_FILE)
    report = build_shards(work_in(tmp_path, default_config.index), 3, None)
    assert (report["passed"], report["shards"], report["num_pairs"]) == (True, 3, ROWS)
    return tmp_path


def work_in(folder: Path, config: IndexConfig) -> BuildShard:
    return BuildShard(vectors=folder / VECTORS_FILE, rows=ROWS, folder=folder, config=config)


def test_merged_hits_are_those_of_one_index(built: Path, vectors: Vectors) -> None:
    opened = open_shards(built, vectors, "Flat", "")
    assert opened.keys() == INDEX_FILES.keys()
    queries = np.concatenate([vectors.text[:20], vectors.image[5:6]])
    for name, base in (("text_to_image", vectors.image), ("text_to_text", vectors.text)):
        scores, rows = opened[name].search(queries, 10)
        expected_scores, expected_rows = Exhaustive(base).search(queries, 10)
        np.testing.assert_allclose(scores, expected_scores, atol=1e-6)
        np.testing.assert_array_equal(np.sort(rows), np.sort(expected_rows))
    assert opened["text_to_image"].search(queries[-1:], 2)[1].tolist() == [[5, 60]]


def test_more_hits_than_a_shard_has_come_from_all(built: Path, vectors: Vectors) -> None:
    _, rows = open_shards(built, vectors, "Flat", "")["text_to_text"].search(vectors.text[:2], ROWS)
    assert [sorted(row) for row in rows.tolist()] == [list(range(ROWS))] * 2


def test_shards_that_find_fewer_give_what_they_find(default_config: Config, tmp_path: Path) -> None:
    rows = 8192
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(8, 8)) * 3
    near = (centres[rng.integers(8, size=rows)] + rng.normal(size=(rows, 8))).astype(np.float32)
    table = near / np.linalg.norm(near, axis=1, keepdims=True)
    vectors = Vectors(table, table)
    vectors.save(tmp_path / VECTORS_FILE)
    config = default_config.index.model_copy(update={"factory": "IVF8,Flat", "min_recall": 0.01})
    work = BuildShard(vectors=tmp_path / VECTORS_FILE, rows=rows, folder=tmp_path, config=config)
    assert build_shards(work, 2, None)["operating_points"]["text"] == {"nprobe": 1}
    merged = open_shards(tmp_path, vectors, "", "")["text_to_text"]
    for k in (10, rows):
        scores, found = merged.search(table[:20], k)
        assert found.shape == scores.shape == (20, k)
        for query, own, told in zip(table[:20], found, scores, strict=True):
            real = own[own >= 0]
            assert len(np.unique(real)) == len(real) == (10 if k == 10 else (own >= 0).argmin()), "none after none"
            np.testing.assert_allclose(told[: len(real)], table[real] @ query, atol=1e-5)
            assert (np.diff(told[: len(real)]) <= 0).all()
            assert {int(row) // (rows // 2) for row in real} == {0, 1} or k == 10
    assert (found[:, -1] == -1).all(), "one list of each shard"


def test_a_shard_that_is_missing_is_named(built: Path, vectors: Vectors) -> None:
    shutil.rmtree(built / "shard-00001")
    with pytest.raises(DataError, match="shard-00001: expected a shard of the index, found none; run it again"):
        open_shards(built, vectors, "Flat", "run it again")


def test_shards_of_other_vectors_are_refused(built: Path, vectors: Vectors) -> None:
    fewer = Vectors(vectors.image[:-1], vectors.text[:-1])
    with pytest.raises(LineageError, match="expected shards of 100 vectors, got shards of 101"):
        open_shards(built, fewer, "Flat", "")
    shards = json.loads((built / SHARDS_FILE).read_text())
    (built / SHARDS_FILE).write_text(json.dumps(shards[1:]))
    with pytest.raises(LineageError, match="expected shards of 101 vectors"):
        open_shards(built, vectors, "Flat", "")
    (built / SHARDS_FILE).write_text("[1]")
    with pytest.raises(DataError, match="expected the rows of each shard, got TypeError"):
        open_shards(built, vectors, "Flat", "")


def test_a_machine_that_does_not_see_the_folder_says_so(built: Path, default_config: Config, tmp_path: Path) -> None:
    work = BuildShard(
        vectors=built / VECTORS_FILE, rows=ROWS, folder=tmp_path / "elsewhere", config=default_config.index
    )
    with pytest.raises(LineageError, match="expected a folder that all machines see, found none on this one"):
        work.open()
