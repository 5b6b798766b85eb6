"""Segments: an insertion writes its own, a merge makes few of many, and whoever reads sees one data set."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from rag_diffusion.errors import BusyError, ConfigError, DataError
from rag_diffusion.knowledge import merger, writer
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.knowledge.snapshot import put_back, take
from rag_diffusion.layout import SNAPSHOTS
from rag_diffusion.readers.records import Item
from rag_diffusion.retrieval import factories
from rag_diffusion.retrieval.query import Query
from rag_diffusion.store.segments import segments_of
from rag_diffusion.terminal.kb_report import as_text
from tests.unit.knowledge.bases import TinyEncoder, items, make_base

BAD = Item(name="bad.png", image=b"", caption="x")
QUERY = Query(["a red fox", "a gray key number 7", "boat"], top_k=12)


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SEALED", 8)


def in_pieces(base: KnowledgeBase, count: int, step: int) -> None:
    for start in range(0, count, step):
        base.insert("mine", items(range(start, min(start + step, count))))


def found(base: KnowledgeBase) -> list[tuple[tuple[str, ...], tuple[float, ...]]]:
    return [(hits.pair_ids, hits.scores) for hits in base.search(QUERY).hits]


def originals(base: KnowledgeBase, count: int) -> None:
    pairs = base.retriever().corpus
    for item in items(range(count)):
        row = pairs.row(f"mine/{item.name}")
        original = pairs.original(row)
        assert original is not None
        assert original.read() == item.image
        assert pairs.ids(np.asarray([row])) == [f"mine/{item.name}"]


def test_in_pieces_or_at_once_the_same_pairs_are_found_with_the_same_scores(tmp_path: Path) -> None:
    pieces, once = make_base(tmp_path / "a"), make_base(tmp_path / "b")
    once.insert("mine", items(range(60)))
    in_pieces(pieces, 60, 10)
    assert len(pieces.info("mine").segments) == 6
    assert not once.info("mine").segments
    told, expected = pieces.info("mine"), once.info("mine")
    assert (told.num_pairs, told.hash, told.counts) == (60, expected.hash, expected.counts)
    assert [sorted(scores) for _, scores in found(pieces)] == [sorted(scores) for _, scores in found(once)]
    assert [set(hits) for hits, _ in found(pieces)] == [set(hits) for hits, _ in found(once)]
    assert pieces.retriever().corpus.versions[0].hash == expected.hash
    assert "segments  6, of 10, 10, 10, 10, 10, 10 pairs" in as_text(told)
    pieces.catalogue.check("mine")
    originals(pieces, 60)


def test_an_insertion_writes_and_embeds_its_own_pairs_alone(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    in_pieces(base, 40, 10)
    old = base.info("mine")
    folder = base.catalogue.folders.generation("mine", old.generation)
    before = {name: (folder / name).stat().st_ino for name in old.files}
    opened, embedded = set(map(id, (part.vectors for part in base.retriever().corpus.parts))), base.encoder.num_images
    told, rejected = base.insert("mine", [*items([3]), *items([50]), BAD])
    assert [one.what for one in rejected] == ["00003.png", "bad.png"]
    folder = base.catalogue.folders.generation("mine", told.generation)
    assert {name: (folder / name).stat().st_ino for name in before} == before
    assert base.encoder.num_images == embedded + 1
    parts = base.retriever().corpus.parts
    assert [len(part) for part in parts] == [10, 10, 10, 10, 1]
    assert opened == set(map(id, (part.vectors for part in parts[:4])))
    told, _ = base.insert(
        "mine", items([51])
    )  # the small last one is written again, and sealed once it is large enough
    assert [one.manifest.num_pairs for one in segments_of(told)] == [10, 10, 10, 10, 2]
    assert sorted(one.what for one in base.catalogue.rejections("mine")) == ["00003.png", "bad.png"]


def test_a_generation_links_a_segment_not_its_files(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    in_pieces(base, 40, 10)
    folder = base.catalogue.folders.folder("mine")
    generation = folder / f"{base.info('mine').generation:05d}"
    assert {path.name: path.is_symlink() for path in generation.iterdir()} == {
        "s00001": True, "s00002": True, "s00003": True, "s00004": False,
    }  # fmt: skip
    assert sorted(path.name for path in (folder / "segments").iterdir()) == ["s00001", "s00002", "s00003"]
    (tmp_path / "data").rename(tmp_path / "moved")
    (tmp_path / "data").symlink_to(tmp_path / "moved")  # links lead from the folder that they lie in
    assert len(make_base(tmp_path).retriever().corpus) == 40
    merged = base.writer.merger.merge("mine", everything=True)
    assert sorted(path.name for path in folder.iterdir()) == [f"{merged.generation:05d}", "manifest.json"]


def test_where_links_to_folders_are_forbidden_files_are_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError("no privilege")

    monkeypatch.setattr(Path, "symlink_to", refused)
    base = make_base(tmp_path)
    in_pieces(base, 30, 10)
    folder = base.catalogue.folders.folder("mine")
    generation = folder / f"{base.info('mine').generation:05d}"
    assert [path.is_symlink() for path in generation.iterdir()] == [False] * 3
    assert sorted(path.name for path in folder.iterdir()) == [generation.name, "manifest.json"]
    base.catalogue.check("mine")
    originals(base, 30)


def test_segments_of_one_size_are_merged_in_the_background(tmp_path: Path) -> None:
    base, once = make_base(tmp_path / "a"), make_base(tmp_path / "b")
    once.insert("mine", [BAD, *items(range(170))])
    base.insert("mine", [BAD, *items(range(10))])
    for start in range(10, 170, 10):
        base.insert("mine", items(range(start, start + 10)))
        base.writer.merger.finish()
    told = base.info("mine")
    assert [one.manifest.num_pairs for one in segments_of(told)] == [80, 80, 10]
    assert (told.hash, told.num_pairs, told.num_rejected) == (once.info("mine").hash, 170, 1)
    base.catalogue.check("mine")
    originals(base, 170)
    merged = base.writer.merger.merge("mine", everything=True)
    assert (merged.segments, merged.hash, merged.added) == ([], told.hash, told.added)
    assert found(base) == found(once)
    originals(base, 170)
    assert not base.catalogue.folders.merging("mine").exists()
    assert base.writer.merger.merge("mine", everything=True) == merged  # nothing is left to do


def test_segments_of_another_encoder_are_merged_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    base = make_base(tmp_path, index={"factory": "IVF4,Flat", "min_recall": 0.5})
    in_pieces(base, 300, 100)
    monkeypatch.setattr(factories, "EXACT_BELOW", 200)
    other = make_base(tmp_path, TinyEncoder("other"), index={"factory": "IVF4,Flat", "min_recall": 0.5})
    assert other.encoder.hash != base.encoder.hash
    merged = other.writer.merger.merge("mine", everything=True)
    assert (merged.encoder_hash, merged.recall["factory"]) == (base.encoder.hash, "IVF4,Flat")
    assert merged.recall["queries"] == "captions"
    assert "tuned by captions alone, as the encoder of its vectors is not here" in caplog.text


def test_who_merges_beside_another_is_told(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    in_pieces(base, 30, 10)
    told = base.info("mine")
    with (
        base.catalogue.folders.merger("mine"),
        pytest.raises(BusyError, match="the only one that merges 'mine', but another process does so"),
    ):
        base.writer.merger.merge("mine", everything=True)
    assert base.info("mine") == told


def test_who_holds_a_retriever_over_a_swap_reads_its_originals(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    in_pieces(base, 30, 10)
    pairs = base.retriever().corpus
    base.writer.merger.merge("mine", everything=True)
    base.writer.remove("mine")
    for item in items(range(30)):
        original = pairs.original(pairs.row(f"mine/{item.name}"))
        assert original is not None
        assert original.read() == item.image


def test_a_process_that_lives_too_short_to_merge_leaves_no_heap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merger, "MOST", 9)
    base = make_base(tmp_path)
    monkeypatch.setattr(merger.Merger, "_merge_all", lambda self, name: None)
    in_pieces(base, 200, 10)
    assert len(base.info("mine").segments) < 12
    assert base.info("mine").num_pairs == 200


def test_an_insertion_holds_although_the_merge_after_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(merger, "MOST", 9)
    base = make_base(tmp_path)

    def fails(*_: object) -> None:
        raise ConfigError("index.factory: expected another one")

    monkeypatch.setattr(merger.Merger, "_merged", fails)
    in_pieces(base, 120, 10)
    base.writer.merger.finish()
    assert base.info("mine").num_pairs == 120
    assert "segments of mine were not merged: index.factory: expected another one" in caplog.text


def test_who_reads_while_others_insert_and_merge_sees_one_state(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    in_pieces(base, 40, 10)
    retriever = base.retriever()
    before = retriever.corpus.versions
    base.writer.merger.merge("mine", everything=True)
    base.insert("mine", items(range(100, 110)))
    assert retriever.corpus.versions == before
    assert len(retriever.corpus.images(np.arange(40))) == 40
    (hits,) = retriever.search(Query(["a red fox"], top_k=40)).hits
    assert len(hits.pair_ids) == 40
    assert len(base.retriever().corpus) == 50


def test_a_data_set_that_goes_or_changes_while_it_is_merged_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base(tmp_path)
    in_pieces(base, 40, 10)
    generations = base.writer.merger._generations
    real, calls = generations.segment, []

    def meanwhile(*given: object) -> object:
        calls.append(given)
        if len(calls) == 1:  # the merge's own; the others are of the insertion
            base.remove("mine")
            base.insert("mine", items(range(5)))
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(generations, "segment", meanwhile)
    assert base.writer.merger.merge("mine", everything=True).num_pairs == 5
    assert base.info("mine").num_pairs == 5
    base.catalogue.check("mine")


def test_rebuilding_makes_one_segment_of_the_same_pairs(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    in_pieces(base, 30, 10)
    told = base.info("mine")
    rebuilt = base.writer.rebuild("mine")
    assert (rebuilt.hash, rebuilt.segments, rebuilt.num_pairs, rebuilt.added) == (told.hash, [], 30, told.added)
    in_pieces_again = make_base(tmp_path, type(base.encoder)("other"))
    with pytest.raises(Exception, match="kb rebuild mine"):
        in_pieces_again.retriever()
    assert in_pieces_again.writer.rebuild("mine").hash == told.hash
    originals(in_pieces_again, 30)


def test_a_snapshot_keeps_segments_and_brings_them_back(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    in_pieces(base, 30, 10)
    taken = take(tmp_path, "mine", wait=1)
    assert (tmp_path / SNAPSHOTS / "mine" / "s00001" / "table.arrow").is_file()
    base.insert("mine", items(range(90, 100)))
    base.writer.merger.merge("mine", everything=True)
    back = put_back(tmp_path, "mine", wait=1, force=True)
    assert (back.hash, back.num_pairs, len(back.segments)) == (taken.hash, 30, 3)
    base.catalogue.check("mine")
    originals(base, 30)
    assert base.insert("mine", items(range(90, 100)))[0].num_pairs == 40


@pytest.mark.parametrize("name", ["s00002/table.arrow", "s00001/vectors.safetensors", "s00003/pairs-00000.parquet"])
def test_damage_of_one_segment_is_told(tmp_path: Path, name: str) -> None:
    base = make_base(tmp_path)
    in_pieces(base, 30, 10)
    (base.catalogue.folders.generation("mine", base.info("mine").generation) / name).unlink()
    (listed,) = base.catalogue.list()
    assert name.rpartition("/")[2] in listed.trouble
    with pytest.raises(DataError, match="expected"):
        make_base(tmp_path).retriever()


def _insert_until_killed(root: Path, done: Path) -> None:
    writer.SEALED = 4
    base, start = make_base(root), int(done.read_text())
    while True:
        base.insert("mine", items(range(start, start + 4)))
        start += 4
        beside = done.with_suffix(".new")
        beside.write_text(str(start))
        os.replace(beside, done)


def test_a_segment_whose_writer_was_killed_before_its_generation_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SEALED", 4)
    base = make_base(tmp_path)
    for start in (0, 4):
        base.insert("mine", items(range(start, start + 4)))
    segments = base.catalogue.folders.segment("mine", "")
    linked = {path.name for path in segments.iterdir()}
    (segments / "s00009").mkdir()
    (segments / "s00009" / "table.arrow").write_bytes(b"")
    make_base(tmp_path)
    assert {path.name for path in segments.iterdir()} == linked


@pytest.mark.slow
def test_a_writer_killed_at_any_time_loses_nothing_that_it_had_told(tmp_path: Path) -> None:
    done, rng = tmp_path / "done", np.random.default_rng(0)
    done.write_text("0")
    for _ in range(6):
        process = multiprocessing.get_context("fork").Process(target=_insert_until_killed, args=(tmp_path / "kb", done))
        process.start()
        time.sleep(1.0 + 2.0 * rng.random())
        os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
        process.join()
        base, told = make_base(tmp_path / "kb"), int(done.read_text())
        if not told:
            continue
        present = base.info("mine").num_pairs
        assert told <= present <= told + 4  # an insertion may hold whose end was not told any more
        base.catalogue.check("mine")
        originals(base, present)
        left = {path.name: path for path in base.catalogue.folders.folder("mine").iterdir()}
        generation = left.pop(f"{base.info('mine').generation:05d}")
        linked = {path.name for path in generation.iterdir() if path.is_symlink()}
        assert left.keys() == {"manifest.json"} | ({"segments"} if linked else set())
        assert {path.name for own in [left.get("segments")] if own for path in own.iterdir()} == linked
        assert not list(base.catalogue.folders.base.glob(".merging/*"))
        done.write_text(str(present))
    assert int(done.read_text()) > 0
