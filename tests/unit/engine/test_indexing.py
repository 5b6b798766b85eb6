"""Index shards by workers of a cluster are those of one process."""

from __future__ import annotations

from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from rag_diffusion.config import Config, RayConfig
from rag_diffusion.knowledge import merger, writer
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.retrieval import factories, index_shards
from rag_diffusion.retrieval.index_shards import BuildShard, build_shards, open_shards
from rag_diffusion.store.segments import segments_of
from rag_diffusion.store.vectors import VECTORS_FILE, Vectors
from tests.unit.knowledge.bases import TinyEncoder, items, settings

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


def test_a_cluster_builds_the_segments_of_one_process_also_for_merges_in_the_background(
    ray_config: RayConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SEALED", 8)
    monkeypatch.setattr(merger, "MERGED", 2)
    monkeypatch.setattr(factories, "EXACT_BELOW", 20)
    monkeypatch.chdir(tmp_path)  # a project is named from where one is, and workers are elsewhere
    config = settings(index={"factory": "Flat", "shards": 2})
    on_cluster = config.model_copy(update={"engine": "ray", "ray": ray_config})
    here, there = (KnowledgeBase(Path(name), own, TinyEncoder()) for name, own in (("a", config), ("b", on_cluster)))
    for start in (0, 40, 80):
        here.insert("mine", items(range(start, start + 40)))
        if start == 40:
            here.writer.merger.finish()
    chosen, build = Event(), merger.Merger._merged

    def told(*arguments: Any) -> Any:
        chosen.set()
        return build(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(index_shards.BuildShard, "open", None)  # not by this process
        patch.setattr(merger.Merger, "_merged", told)
        for start in (0, 40, 80):
            there.insert("mine", items(range(start, start + 40)))
            if start == 40:  # the last one comes while the first two are merged: not before they are chosen
                assert chosen.wait(60)
        there.writer.merger.finish()
    mine, others = ({one.content for one in segments_of(base.info("mine"))} for base in (here, there))
    assert mine == others
    assert sorted(len(part) for part in there.retriever().corpus.parts) == [40, 80]
    assert all(one.manifest.recall["shards"] == 2 for one in segments_of(there.info("mine")))
