"""Damaged files, other versions, several writers, a recall that is too low: an error that says what to do."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import pytest

from rag_diffusion.errors import BusyError, ConfigError, DataError, LineageError, RagDiffusionError
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.layout import RECALL_FILE
from rag_diffusion.retrieval import factories, recall
from rag_diffusion.retrieval.data_set import DataSet
from rag_diffusion.retrieval.query import Query
from tests.unit.knowledge.bases import TinyEncoder, items, make_base

REBUILD = "run `rag-diffusion kb rebuild photos`"


INDEX = {"factory": "HNSW16", "min_recall": 0.5}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 300 pairs with an approximate index."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factories, "EXACT_BELOW", 100)
        found = make_base(tmp_path_factory.mktemp("whole"), index=INDEX)
        manifest = found.add("photos", items(range(300)))
    assert set(manifest.files) >= {"image.index", "text.index", "vectors.safetensors", "table.arrow"}
    return found.root


@pytest.fixture
def base(tmp_path: Path, whole: Path) -> KnowledgeBase:
    """A copy of it."""
    shutil.copytree(whole / "data", tmp_path / "data")
    return make_base(tmp_path, index=INDEX)


def reopened(base: KnowledgeBase) -> KnowledgeBase:
    return make_base(base.root, TinyEncoder(), index=INDEX)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *((name, "cut") for name in ("image.index", "vectors.safetensors", "table.arrow", "lexical.safetensors")),
        ("text.index", "gone"),
        ("image.index.json", "cut"),
        ("text.index.json", "gone"),
        ("lexical.json", "empty"),
    ],
)
def test_a_file_that_was_cut_names_the_command_that_makes_it_again(base: KnowledgeBase, name: str, how: str) -> None:
    path = base.catalogue.folders.generation("photos", 1) / name
    content = path.read_bytes()
    path.unlink()
    if how != "gone":
        path.write_bytes(content[: len(content) // 2] if how == "cut" else b"")
    base = reopened(base)
    with pytest.raises(DataError, match=f"{name}: expected {len(content)} bytes, got .*{REBUILD}"):
        base.retriever()
    assert REBUILD in base.list()[0].trouble
    seen = base.encoder.num_images
    base.writer.rebuild("photos")
    assert base.encoder.num_images - seen == (300 if name.startswith("vectors") else 0)
    assert len(base.retriever().corpus) == 300
    assert not path.parent.exists()


@pytest.mark.parametrize("name", ["image.index", "vectors.safetensors", "table.arrow", "lexical.json"])
def test_a_file_of_the_same_length_that_holds_something_else_is_told(base: KnowledgeBase, name: str) -> None:
    path = base.catalogue.folders.generation("photos", 1) / name
    path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(RagDiffusionError, match=REBUILD):
        reopened(base).retriever()
    with pytest.raises(DataError, match=f"expected sha256 .*{REBUILD}"):
        base.catalogue.check("photos")


def test_a_changed_byte_of_an_image_is_found_by_a_check(base: KnowledgeBase) -> None:
    base.catalogue.check("photos")
    path = base.catalogue.folders.generation("photos", 1) / "pairs-00000.parquet"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="expected sha256 .* add the data set again with --replace"):
        base.catalogue.check("photos")
    with pytest.raises(DataError, match="truncated or was changed; add the data set again"):
        base.writer.rebuild("photos")
    path.write_bytes(content[:5000])
    with pytest.raises(DataError, match="add the data set again with --replace"):
        reopened(base).retriever()


def test_an_index_of_other_vectors_is_told(base: KnowledgeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factories, "EXACT_BELOW", 100)
    other = make_base(base.root / "other", index=INDEX)
    other.add("photos", items(range(200)))
    manifest = base.info("photos")
    theirs, ours = (one.catalogue.folders.generation("photos", 1) for one in (other, base))
    files = dict(manifest.files)
    for name in ("image.index", "image.index.json"):
        (ours / name).write_bytes((theirs / name).read_bytes())
        files[name] = other.info("photos").files[name]
    with pytest.raises(LineageError, match=f"expected an index of 300 vectors of width 16, got one of 200 .*{REBUILD}"):
        DataSet.open(ours, type(manifest)(**{**manifest.__dict__, "files": files}))


def test_a_data_set_of_another_version_is_told_and_can_be_removed(base: KnowledgeBase) -> None:
    path = base.catalogue.folders.manifest("photos")
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"format": 99}))
    base = reopened(base)
    with pytest.raises(LineageError, match="format 2, got 99; remove it by `rag-diffusion kb remove photos`"):
        base.retriever()
    assert "got 99" in base.list()[0].trouble
    path.write_text(path.read_text()[:100])
    with pytest.raises(DataError, match="expected the manifest of a data set, .*kb remove photos"):
        base.retriever()
    base.remove("photos")
    assert base.catalogue.names() == []


def test_an_index_below_the_recall_asked_for_fails_and_leaves_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factories, "EXACT_BELOW", 100)
    base = make_base(tmp_path, TinyEncoder(), index={"factory": "IVF32,PQ2x4", "min_recall": 0.98})
    with pytest.raises(ConfigError, match=r"expected recall@10 of at least 0.98 .* got .*IVF32,PQ2x4"):
        base.add("photos", items(range(1500)))
    report = json.loads((base.catalogue.folders.building("photos") / "made" / RECALL_FILE).read_text())
    assert not report["passed"]
    assert report["caption_queries"] == recall.RECALL_QUERIES
    assert report["short_queries"] > 0
    assert base.catalogue.names() == []
    finer = make_base(tmp_path, TinyEncoder(), index={"factory": "Flat"})
    manifest = finer.add("photos", items(range(1500)))
    assert finer.encoder.num_images == 0  # the embedded pairs of the first try
    assert manifest.recall["passed"]
    assert manifest.recall["recall_text"] == manifest.recall["recall_image"] == 1


def slowly(seconds: float, numbers: range):
    for item in items(numbers):
        time.sleep(seconds)
        yield item


def test_a_second_writer_waits_its_turn_and_nothing_is_lost(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    base.insert("mine", items(range(5)))
    threads = [
        threading.Thread(target=make_base(tmp_path, wait=30).insert, args=("mine", items(range(start, start + 5))))
        for start in range(10, 60, 10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert base.info("mine").num_pairs == 30


def test_a_second_writer_that_may_not_wait_is_told_who_writes(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    first = threading.Thread(target=base.add, args=("photos", slowly(0.02, range(40))))
    first.start()
    time.sleep(0.2)
    other = make_base(tmp_path, wait=0)
    for change in (lambda: other.add("photos", items(range(3)), replace=True), lambda: other.remove("photos")):
        with pytest.raises(BusyError, match="expected to be the only one that writes 'photos', but process"):
            change()
    other.add("another", items(range(3)))  # at the same time
    first.join()
    assert base.info("photos").num_pairs == 40
    assert base.catalogue.names() == ["another", "photos"]


@pytest.mark.parametrize("content", ['{"format": 1}', '{"format": 1, "name": 3, "form": "x"}', "[1]", "{", ""])
def test_a_damaged_manifest_harms_its_own_data_set_alone(tmp_path: Path, content: str) -> None:
    base = make_base(tmp_path)
    base.add("good", items(range(5)))
    base.add("bad", items(range(5)))
    base.catalogue.folders.manifest("bad").write_text(content, encoding="utf-8")
    again = make_base(tmp_path)
    assert {one.manifest.name: bool(one.trouble) for one in again.list()} == {"bad": True, "good": False}
    with pytest.raises(DataError, match="rag-diffusion kb remove bad"):
        again.search(Query(["a fox"], top_k=1))
    again.remove("bad")
    assert again.catalogue.names() == ["good"]
    assert not again.catalogue.folders.folder("bad").exists()
    assert len(again.search(Query(["a fox"], top_k=5)).hits[0].pair_ids) == 5
