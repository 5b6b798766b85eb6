"""Data sets whose vectors are kept in fewer bits: added, inserted into, merged, rebuilt, and told of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from rag_diffusion import layout
from rag_diffusion.errors import ConfigError
from rag_diffusion.knowledge import writer
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.retrieval.query import Query
from rag_diffusion.store.segments import segments_of
from rag_diffusion.store.vectors import VECTORS_FILE
from rag_diffusion.terminal.kb_report import as_text
from tests.unit.knowledge.bases import TinyEncoder, items, make_base

QUERY = Query(["a red fox", "a gray key number 7", "boat"], top_k=12)
LOSSY = ("float16", "int8")


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SEALED", 8)


def base_in(root: Path, precision: str, encoder: TinyEncoder | None = None, **index: object) -> KnowledgeBase:
    return make_base(root, encoder, index={"precision": precision, "min_recall": 0.9, **index})


def file_of(base: KnowledgeBase, segment: int = 0) -> dict[str, np.ndarray]:
    told = base.info("mine")
    folder = base.catalogue.folders.generation("mine", told.generation) / segments_of(told)[segment].folder
    return load_file(folder / VECTORS_FILE)


@pytest.mark.parametrize("precision", LOSSY)
def test_one_setting_keeps_them_in_fewer_bits_and_finds_the_same(precision: str, tmp_path: Path) -> None:
    wide, narrow = make_base(tmp_path / "a"), base_in(tmp_path / "b", precision)
    for base in (wide, narrow):
        base.add("mine", items(range(60)))
    assert file_of(narrow)["image"].dtype == precision
    told = narrow.info("mine")
    assert (told.precisions, told.recall["precision"], wide.info("mine").precisions) == (
        (precision,),
        precision,
        ("float32",),
    )
    assert f"\nvectors   {precision}\n" in as_text(told)
    assert "\nvectors   float32\n" in as_text(wide.info("mine"))
    narrow.catalogue.check("mine")
    for ours, theirs in zip(narrow.search(QUERY).hits, wide.search(QUERY).hits, strict=True):
        assert len(set(ours.pair_ids) & set(theirs.pair_ids)) >= 11
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=0.02)
    everything = [len(hits.pair_ids) for hits in narrow.search(Query(["a red fox"], top_k=60)).hits]
    assert everything == [60]
    assert not list(narrow.catalogue.folders.building("mine").parent.glob("*/*"))  # the float32 ones are gone
    assert sum(len(tensor) for tensor in file_of(narrow).values()) == 60 * (4 if precision == "int8" else 2)


def test_segments_of_different_precisions_are_searched_and_merged(tmp_path: Path) -> None:
    for start, precision in ((0, "float32"), (10, "float16"), (20, "int8")):
        base_in(tmp_path, precision).insert("mine", items(range(start, start + 10)))
    base = base_in(tmp_path, "float16")
    told = base.info("mine")
    assert told.precisions == ("float32", "float16", "int8")
    assert "vectors   float32, float16, int8" in as_text(told)
    before = base.search(QUERY).hits
    merged = base.writer.merger.merge("mine", everything=True)
    assert (merged.precisions, merged.coarsest, merged.num_pairs) == (("float16",), "int8", 30)
    assert [set(hits.pair_ids) for hits in base.search(QUERY).hits] == [set(hits.pair_ids) for hits in before]
    base.catalogue.check("mine")


def test_a_merge_of_eight_bits_keeps_the_same_bits(tmp_path: Path) -> None:
    base = base_in(tmp_path, "int8")
    for start in (0, 10):
        base.insert("mine", items(range(start, start + 10)))
    parts = [file_of(base, segment) for segment in (0, 1)]
    told = [segment.manifest.recall["precision_recall"] for segment in segments_of(base.info("mine"))]
    merged = base.writer.merger.merge("mine", everything=True)
    np.testing.assert_array_equal(file_of(base)["text"], np.concatenate([part["text"] for part in parts]))
    assert merged.recall["precision_recall"]["image"] == min(own["image"] for own in told)


def test_a_rebuild_embeds_again_only_what_had_fewer_bits(tmp_path: Path) -> None:
    encoder = TinyEncoder()
    base_in(tmp_path, "int8", encoder).insert("mine", items(range(20)))
    seen = encoder.num_images
    for precision, embedded in (("int8", 0), ("float32", 20), ("float16", 0), ("float32", 20)):
        told = base_in(tmp_path, precision, encoder).writer.rebuild("mine")
        assert (told.precisions, told.coarsest, encoder.num_images - seen) == ((precision,), precision, embedded)
        seen = encoder.num_images
    fresh = make_base(tmp_path / "fresh", encoder)
    fresh.insert("mine", items(range(20)))
    np.testing.assert_array_equal(file_of(base_in(tmp_path, "float32"))["image"], file_of(fresh)["image"])


def test_too_few_bits_are_refused_and_the_data_set_stays(tmp_path: Path) -> None:
    base_in(tmp_path, "float32").add("mine", items(range(200)))
    strict = base_in(tmp_path, "int8", min_recall=1.0)
    with pytest.raises(ConfigError, match=r"index.precision: expected recall@10 of at least 1.0 .*int8; set it to"):
        strict.writer.rebuild("mine")
    assert strict.info("mine").precisions == ("float32",)
    assert len(strict.retriever().corpus) == 200


def test_a_manifest_without_the_field_is_of_float32(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    base.add("mine", items(range(20)))
    told = json.loads(base.catalogue.folders.manifest("mine").read_text())
    assert not {"precision", "coarsest", "precision_recall"} & told["recall"].keys()  # as before there were any
    assert (base.info("mine").precisions, base.info("mine").coarsest) == (("float32",), "float32")
    assert not (tmp_path / layout.INDEX).exists()
