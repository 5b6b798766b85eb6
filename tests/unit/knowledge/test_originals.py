"""Originals: kept byte for byte, a source for images of another size, shared by the generations of a data set."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rag_diffusion.errors import ConfigError, DataError, LineageError
from rag_diffusion.files import file_hash
from rag_diffusion.knowledge import ingest
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.readers.records import Item
from rag_diffusion.store import originals
from tests.unit.knowledge.bases import TinyEncoder, items, make_base
from tests.unit.readers.pictures import DRAWING, mixed


def kept(base: KnowledgeBase, name: str) -> bytes | None:
    pairs = base.retriever().corpus
    original = pairs.original(int(pairs.rows([f"photos/{name}"])[0]))
    return None if original is None else original.read()


def at_size(root: Path, size: int, encoder: TinyEncoder | None = None) -> KnowledgeBase:
    return make_base(root, encoder, corpus={"image_size": size})


def generation(base: KnowledgeBase) -> dict[str, str]:
    """Names and hashes of all files of `photos`."""
    folder = base.catalogue.folders.generation("photos", base.info("photos").generation)
    return {path.name: file_hash(path) for path in folder.iterdir()}


@pytest.mark.parametrize("system", ["Linux", "another one"])
def test_every_file_is_kept_as_it_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    if system != "Linux":
        monkeypatch.setattr(originals, "_OPEN", tmp_path / "none")
    base, source = make_base(tmp_path), mixed()
    told = base.add("photos", source)
    assert {one.name: kept(base, one.name) for one in source} == {one.name: one.image for one in source}
    assert (told.num_originals, told.original_bytes) == (len(source), sum(len(one.image) for one in source))
    base.catalogue.check("photos")


def test_the_hash_and_the_shards_are_the_same_with_and_without_originals(tmp_path: Path) -> None:
    with_them, without = make_base(tmp_path / "a"), make_base(tmp_path / "b")
    first, second = with_them.add("photos", mixed()), without.add("photos", mixed(), originals=False)
    assert (first.hash, first.shards) == (second.hash, second.shards)
    assert (second.originals, second.num_originals) == (False, 0)
    assert kept(without, "PNG.x") is None
    assert not [name for name in generation(without) if name.startswith("originals")]


@pytest.mark.parametrize("size", [16, 64, 160])
def test_another_image_size_makes_the_bytes_that_a_fresh_add_would(tmp_path: Path, size: int) -> None:
    make_base(tmp_path / "a").add("photos", [*mixed(), Item(name="bad", image=b"x", caption="no picture")])
    rebuilt, fresh = at_size(tmp_path / "a", size), at_size(tmp_path / "b", size)
    with pytest.raises(
        LineageError, match=rf"images of {size} pixels.*'photos' have 32; run `rag-diffusion kb rebuild"
    ):
        rebuilt.retriever()
    assert "kb rebuild photos" in rebuilt.list()[0].trouble
    made = rebuilt.writer.rebuild("photos")
    expected = fresh.add("photos", [*mixed(), Item(name="bad", image=b"x", caption="no picture")])
    assert (made.hash, made.counts, made.num_rejected) == (expected.hash, expected.counts, 1)
    assert generation(rebuilt) == generation(fresh)
    assert rebuilt.list()[0].trouble == ""
    assert kept(rebuilt, "drawing.svg") == DRAWING


def test_images_without_originals_become_smaller_but_larger_only_when_asked(tmp_path: Path) -> None:
    make_base(tmp_path).add("photos", mixed(), originals=False, origin="the/folder")
    smaller = at_size(tmp_path, 16)
    assert smaller.writer.rebuild("photos").image_size == 16
    larger = at_size(tmp_path, 64)
    with pytest.raises(ConfigError, match=r"8 of its 8 pairs have none.*can be made smaller.*the/folder.*--stretch"):
        larger.writer.rebuild("photos")
    assert larger.writer.rebuild("photos", stretch=True).image_size == 64
    pairs = larger.retriever().corpus
    assert pairs.pixels(np.arange(8)).shape == (8, 64, 64, 3)


def test_uploads_keep_theirs_and_link_those_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(originals, "FILE_BYTES", 100_000)
    base, source = make_base(tmp_path), mixed()
    base.insert("photos", source[:4])
    before = base.catalogue.folders.generation("photos", 1) / "originals-00000.bin"
    number, size = before.stat().st_ino, before.stat().st_size
    assert size > 100_000
    for one in source[4:]:
        base.insert("photos", [one])
    told = base.info("photos")
    folder = base.catalogue.folders.generation("photos", told.generation)
    assert (folder / "originals-00000.bin").stat().st_ino == number  # linked, never copied
    assert {one.name: kept(base, one.name) for one in source} == {one.name: one.image for one in source}
    assert sum(told.files[name]["bytes"] for name in told.files if name.endswith(".bin")) == told.original_bytes
    base.catalogue.check("photos")
    with pytest.raises(LineageError, match="images of 64 pixels, but it has 32; run `rag-diffusion kb rebuild photos`"):
        at_size(tmp_path, 64).insert("photos", items([1]))


def test_a_data_set_of_the_format_before_opens_and_takes_originals_from_then_on(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    base.insert("photos", mixed()[:3])
    base.writer.rebuild("photos", originals=False)
    path = base.catalogue.folders.manifest("photos")
    told = json.loads(path.read_text()) | {"format": 1}
    for name in ("originals", "num_originals", "original_bytes"):
        del told[name]
    path.write_text(json.dumps(told))
    base = make_base(tmp_path)
    assert kept(base, "PNG.x") is None
    made, _ = base.insert("photos", mixed()[3:4])
    assert (made.format, made.num_originals, made.num_pairs) == (2, 1, 4)
    assert kept(base, "GIF.x") == mixed()[3].image
    assert kept(base, "PNG.x") is None


def test_damaged_originals_are_told_and_can_be_given_up(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    told = base.add("photos", mixed())
    path = base.catalogue.folders.generation("photos", 1) / "originals-00000.bin"
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    for asked in (lambda: base.catalogue.check("photos"), lambda: base.writer.rebuild("photos")):
        with pytest.raises(DataError, match=r"originals-00000.bin: expected sha256 .*kb rebuild photos --no-originals"):
            asked()
    path.unlink()
    with pytest.raises(DataError, match=r"got no file.*add it again with --replace"):
        make_base(tmp_path).retriever()
    made = base.writer.rebuild("photos", originals=False)
    assert (made.hash, made.num_originals) == (told.hash, 0)
    assert len(make_base(tmp_path).retriever().corpus) == 8


def test_a_build_that_was_stopped_keeps_the_originals_of_what_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "BATCH", 4)

    class StoppedError(Exception):
        pass

    def stops():  # type: ignore[no-untyped-def]
        yield from mixed()[:5]
        raise StoppedError

    base = make_base(tmp_path / "a")
    with pytest.raises(StoppedError):
        base.add("photos", stops())
    part = next(base.catalogue.folders.building("photos").glob("*.originals"))
    base.add("photos", mixed())
    fresh = make_base(tmp_path / "b")
    fresh.add("photos", mixed())
    assert not part.exists()
    assert generation(base) == generation(fresh)
    assert kept(base, "BMP.x") == replace(mixed()[4]).image
