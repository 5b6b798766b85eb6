"""Segments whose index lies in shards: the hits of one process, in every state that a data set goes through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rag_diffusion.errors import DataError
from rag_diffusion.knowledge import writer
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.knowledge.snapshot import put_back, take
from rag_diffusion.layout import SNAPSHOTS
from rag_diffusion.retrieval import factories
from rag_diffusion.retrieval.fusion import POOL
from rag_diffusion.retrieval.query import Query
from rag_diffusion.retrieval.stacked import StackedIndex
from rag_diffusion.store.segments import segments_of
from tests.unit.knowledge.bases import items, make_base

QUERY = Query(["a red fox", "a gray key number 7", "boat"], top_k=12)
PAIRS = POOL + 60  # of fewer, all are scored and no index is asked
LEAST = 40


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes from few pairs on."""
    monkeypatch.setattr(writer, "SEALED", 8)
    monkeypatch.setattr(factories, "EXACT_BELOW", LEAST)


def base_in(root: Path, shards: int = 3, **index: object) -> KnowledgeBase:
    return make_base(root, index={"factory": "IVF4,Flat", "min_recall": 1.0, "shards": shards, **index})


def shards_of_segments(base: KnowledgeBase) -> list[int]:
    """How many each segment's index has; 0 of one in no shards."""
    told = base.info("mine")
    folder = base.catalogue.folders.generation("mine", told.generation)
    base.catalogue.check("mine")
    for one in segments_of(told):
        parts = {name.partition("/")[0] for name in one.manifest.files if name.startswith("shard-")}
        assert parts == {path.name for path in (folder / one.folder).glob("shard-*")}
        assert ("shards.json" in one.manifest.files) == bool(parts)
        assert one.manifest.recall.get("shards", 0) == len(parts)
    opened = [part.indexes["text_to_text"] for part in base._open("mine")]
    sharded = [len(index._indexes) if isinstance(index, StackedIndex) else 0 for index in opened]
    assert sharded == [one.manifest.recall.get("shards", 0) for one in segments_of(told)]
    return sharded


def found(base: KnowledgeBase) -> list[tuple[tuple[str, ...], tuple[float, ...]]]:
    return [(hits.pair_ids, hits.scores) for hits in base.search(QUERY).hits]


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_shards_find_what_one_index_finds(precision: str, tmp_path: Path) -> None:
    fewer_bits = {"precision": precision, "factory": "Flat", "min_recall": 0.9} if precision != "float32" else {}
    one, three = base_in(tmp_path / "one", 1, **fewer_bits), base_in(tmp_path / "three", **fewer_bits)
    for base in (one, three):
        base.add("mine", items(range(PAIRS)))
    assert (shards_of_segments(one), shards_of_segments(three)) == ([0], [3])
    assert found(three) == found(one)
    assert three.info("mine").precisions == one.info("mine").precisions == (precision,)
    assert three.info("mine").recall["passed"]


def test_a_segment_has_shards_from_that_size_on_of_which_each_has_an_index(tmp_path: Path) -> None:
    base = base_in(tmp_path)
    base.insert("mine", items([0]))
    assert shards_of_segments(base) == [0]
    base.insert("mine", items(range(1, 2 * LEAST)))
    assert shards_of_segments(base) == [2]
    base.insert("mine", items(range(100, 110)))
    base.insert("mine", items(range(110, 110 + PAIRS)))
    assert shards_of_segments(base) == [2, 0, 3]
    before = found(base)
    assert base.writer.merger.merge("mine", everything=True).num_pairs == 2 * LEAST + 10 + PAIRS
    assert shards_of_segments(base) == [3]
    assert [sorted(scores) for _, scores in found(base)] == [sorted(scores) for _, scores in before]


@pytest.mark.parametrize("linked", [True, False])
def test_shards_go_along_into_the_next_generation(
    linked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError("no privilege")

    if not linked:
        monkeypatch.setattr(Path, "symlink_to", refused)
    base = base_in(tmp_path)
    base.add("mine", items(range(PAIRS)), form="uploaded")
    opened = next(iter(base._open("mine"))).indexes
    for number in range(PAIRS, PAIRS + 20, 10):
        base.insert("mine", items(range(number, number + 10)))
    assert shards_of_segments(base) == [3, 0, 0]
    assert next(iter(base._open("mine"))).indexes is opened, "it is the same segment"
    whole = base_in(tmp_path / "whole", 1)
    whole.add("mine", items(range(PAIRS + 20)))
    assert [scores for _, scores in found(base_in(tmp_path))] == [scores for _, scores in found(whole)]


def test_a_snapshot_keeps_shards_and_brings_them_back(tmp_path: Path) -> None:
    base = base_in(tmp_path)
    base.add("mine", items(range(PAIRS)), form="uploaded")
    base.insert("mine", items(range(PAIRS, PAIRS + 10)))
    before = found(base)
    take(tmp_path, "mine", wait=1)
    assert (tmp_path / SNAPSHOTS / "mine" / "s00001" / "shard-00002" / "text.index").is_file()
    base.remove("mine")
    put_back(tmp_path, "mine", wait=1)
    assert shards_of_segments(base) == [3, 0]
    assert found(base) == before


def test_rebuilding_makes_as_many_shards_as_are_asked_for_then(tmp_path: Path) -> None:
    base = base_in(tmp_path)
    base.add("mine", items(range(PAIRS)))
    before = found(base)
    other = base_in(tmp_path, 2)
    other.writer.rebuild("mine")
    assert shards_of_segments(other) == [2]
    assert found(other) == found(base) == before, "who has the old one open goes on to the new one"
    one = base_in(tmp_path, 1)
    one.writer.rebuild("mine")
    assert shards_of_segments(one) == [0]
    assert found(one) == before


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "expected .* bytes, got"),
        (Path.unlink, "expected .* bytes, got no file"),
    ],
)
def test_a_damaged_shard_is_told_and_mended_by_rebuilding(
    damage: Callable[[Path], object], told: str, tmp_path: Path
) -> None:
    base = base_in(tmp_path)
    base.add("mine", items(range(PAIRS)))
    before = found(base)
    damage(base.catalogue.folders.generation("mine", 1) / "shard-00001" / "image.index")
    (listed,) = base.catalogue.list()
    assert "shard-00001/image.index" in listed.trouble
    with pytest.raises(DataError, match=told):
        base_in(tmp_path).retriever()
    base.writer.rebuild("mine")
    assert found(base_in(tmp_path)) == before


@pytest.mark.parametrize("shards", [1, 2])
def test_an_index_that_finds_few_is_asked_as_far_as_it_goes(shards: int, tmp_path: Path) -> None:
    base = base_in(tmp_path, shards, min_recall=0.0)
    told = base.add("mine", items(range(2 * POOL)))
    assert told.recall["operating_points"]["text"] == {"nprobe": 1}
    indexes = next(iter(base._open("mine"))).indexes
    rows = indexes["text_to_text"].search(base.encoder.texts(["a red fox"]), 2 * POOL)[1][0]
    assert (rows == -1).any()
    (few, many) = (base.search(Query(["a red fox"], top_k=k)).hits[0] for k in (12, POOL + 100))
    assert len(few.pair_ids) == 12
    assert many.pair_ids[:12] == few.pair_ids
    assert len(set(many.pair_ids)) == len(many.pair_ids)
    assert np.isfinite(many.scores).all()
    (excluded,) = base.search(Query(["a red fox"], top_k=12, exclude=[few.pair_ids])).hits
    assert len(excluded.pair_ids) == 12
    assert not set(excluded.pair_ids) & set(few.pair_ids)
