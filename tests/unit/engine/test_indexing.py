"""Index shards by workers of a cluster are those of one process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rag_diffusion.config import Config
from rag_diffusion.retrieval.index_shards import BuildShard, build_shards, open_shards
from rag_diffusion.store.vectors import VECTORS_FILE, Vectors

if TYPE_CHECKING:
    from rag_diffusion.engine.workers import RayEngine


def test_a_cluster_builds_the_shards_of_one_process(
    engine: RayEngine, default_config: Config, tmp_path: Path, rng: np.random.Generator
) -> None:
    rows = 10_000
    image, text = (rng.normal(size=(rows, 16)).astype(np.float32) for _ in range(2))
    vectors = Vectors(*(one / np.linalg.norm(one, axis=1, keepdims=True) for one in (image, text)))
    vectors.save(tmp_path / VECTORS_FILE)
    config = default_config.index.model_copy(update={"factory": "IVF8,Flat", "min_recall": 1.0})
    hits, reports = [], []
    for name, by in (("here", None), ("there", engine)):
        folder = tmp_path / name
        folder.mkdir()
        work = BuildShard(vectors=tmp_path / VECTORS_FILE, rows=rows, folder=folder, config=config)
        reports.append(build_shards(work, 2, by, lambda: vectors.image[:100]))
        assert not list(folder.glob("*.npy"))
        hits.append([index.search(text[:50], 10) for index in open_shards(folder, vectors, "Flat", "").values()])
    assert reports[0] == reports[1]
    assert reports[0]["factory"] == "IVF8,Flat"
    assert reports[0]["recall_text_short"] == 1
    for mine, others in zip(*hits, strict=True):
        np.testing.assert_array_equal(mine[1], others[1])
        np.testing.assert_array_equal(mine[0], others[0])
