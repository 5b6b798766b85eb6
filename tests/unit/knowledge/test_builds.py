"""Builds of data sets: stopped, killed, made again, for another encoder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from rag_diffusion.errors import DataError, LineageError
from rag_diffusion.files import tree_hash
from rag_diffusion.knowledge import generations, ingest
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.readers import captioned, imagefolder
from rag_diffusion.readers.forms import open_reader
from rag_diffusion.readers.records import Item, Rejection
from rag_diffusion.store import staging
from tests.unit.knowledge.bases import TinyEncoder, items, make_base


def test_a_removal_that_was_killed_is_ended_by_whoever_opens_the_knowledge_base(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    base.add("gone", items(range(5)))
    folder = base.catalogue.folders.folder("gone")
    (folder / "manifest.json").rename(folder / "removed.json")
    assert folder.is_dir()
    assert make_base(tmp_path).catalogue.names() == []
    assert not folder.exists()


def test_the_same_items_give_the_same_bytes(tmp_path: Path) -> None:
    hashes, manifests = set(), []
    for name, order in (("a", 1), ("b", -1)):
        base = make_base(tmp_path / name)
        manifests.append(base.add("photos", items(range(300))[::order]))
        hashes.add(tree_hash(base.catalogue.folders.generation("photos", 1)))
    assert len(hashes) == 1
    assert manifests[0] == manifests[1], "but for the time, which is not compared"


class StoppedError(Exception):
    pass


def stops_after(count: int, source: list[Item]) -> Iterator[Item]:
    yield from source[:count]
    raise StoppedError


def stopped_base(root: Path, encoder: TinyEncoder, source: list[Item], count: int) -> KnowledgeBase:
    """One whose build of `photos` was stopped after some items."""
    base = make_base(root, encoder)
    with pytest.raises(StoppedError):
        base.add("photos", stops_after(count, source))
    return base


def parts_of_64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts by number alone."""
    monkeypatch.setattr(ingest, "PART_CANDIDATES", 64)
    for name in ("PART_SECONDS", "PART_SECONDS_AT_FIRST"):
        monkeypatch.setattr(ingest, name, 1e9)


def test_a_build_that_was_stopped_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts_of_64(monkeypatch)
    encoder, source = TinyEncoder(), items(range(400))
    base = stopped_base(tmp_path, encoder, source, 300)
    assert base.catalogue.names() == []
    assert "run the same" in base.list()[0].trouble
    assert encoder.num_images == 296  # whole batches of 8
    base.add("photos", source)
    assert encoder.num_images == 400
    other = make_base(tmp_path / "other")
    other.add("photos", source)
    assert base.info("photos") == other.info("photos")  # but for the second in which they came
    left, right = (
        tree_hash(kb.catalogue.folders.generation("photos", kb.info("photos").generation)) for kb in (base, other)
    )
    assert left == right


def test_what_was_embedded_is_kept_by_time_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(ingest.time, "monotonic", lambda: now[0])

    class Slow(TinyEncoder):
        def texts(self, texts: Sequence[str]) -> np.ndarray:
            now[0] += 0.3
            return super().texts(texts)

    encoder, source = Slow(), items(range(400))
    base = stopped_base(tmp_path, encoder, source, 390)
    parts = sorted(base.catalogue.folders.building("photos").glob("*.json"))
    assert len(parts) > 5  # the plan is one of them; none of 2,048 pairs or 64 MiB was reached
    kept = sum(json.loads(part.read_text())["candidates"] for part in parts if part.stem.isdigit())
    assert kept == 384  # whole batches
    encoder.num_images = 0
    assert base.add("photos", source).num_pairs == 400
    assert encoder.num_images == 16


def test_parts_become_fewer_as_a_build_goes_on_and_ten_seconds_are_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    now, kept = [0.0], list[float]()
    monkeypatch.setattr(ingest.time, "monotonic", lambda: now[0])
    keeping = ingest._Keeping()
    while now[0] < 2000:
        now[0] += 0.25
        if keeping.due:
            kept.append(now[0])
            keeping.begin()
    waits = np.diff([0.0, *kept])

    assert waits[:20].max() == 0.25
    assert waits.max() == 10.0
    assert len(kept) < 2000 / 10 + 200


def test_a_stopped_build_notices_that_its_source_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts_of_64(monkeypatch)
    encoder, source = TinyEncoder(), items(range(300))
    base = stopped_base(tmp_path, encoder, source, 299)
    seen = encoder.num_images
    source[100] = replace(source[100], caption="a changed caption")
    base.add("photos", source)
    assert encoder.num_images - seen == 300 - 64  # the first part alone still holds
    assert base.retriever().corpus.pair("photos/00100.png").caption == "a changed caption"


def folder_of(root: Path, numbers: Sequence[int]) -> Path:
    """Pictures with text files beside them."""
    folder = root / "photos"
    folder.mkdir()
    for item in items(numbers):
        (folder / item.name).write_bytes(item.image)
        (folder / item.name).with_suffix(".txt").write_text(item.caption)
    return folder


def killed_base(root: Path, encoder: TinyEncoder, folder: Path, count: int) -> KnowledgeBase:
    """One whose build of a folder was killed when an encoder had seen so many of its pictures."""
    base = make_base(root, encoder)

    class Killed(TinyEncoder):
        def images(self, pixels: np.ndarray) -> np.ndarray:
            if self.num_images + len(pixels) > count:
                raise StoppedError
            return super().images(pixels)

    base.writer._encoder = Killed()
    with pytest.raises(StoppedError):
        base.add("photos", open_reader("auto", folder), form="image_text", origin="here")
    base.writer._encoder = encoder
    return base


@pytest.fixture
def images_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that folders were read for."""
    names, read = list[str](), imagefolder.read_image

    def noting(path: Path) -> bytes:
        names.append(path.name)
        return read(path)

    monkeypatch.setattr(imagefolder, "read_image", noting)
    monkeypatch.setattr(captioned, "SETTLED", -60)  # the files were made just now
    return names


def test_images_of_an_unchanged_folder_are_not_read_again(tmp_path: Path, images_read: list[str]) -> None:
    encoder, folder = TinyEncoder(), folder_of(tmp_path, range(120))
    (folder / "00005.txt").unlink()
    base = killed_base(tmp_path / "base", encoder, folder, 80)
    kept = staging.Staging(base.catalogue.folders.building("photos"), plan_of(base))
    assert 40 <= kept.done <= 88

    images_read.clear()
    made = base.add("photos", open_reader("auto", folder), form="image_text", origin="here")
    assert (made.num_pairs, made.num_rejected) == (119, 1)
    assert images_read[0] == f"{kept.done:05d}.png"
    assert len(images_read) == 120 - kept.done
    other = make_base(tmp_path / "other")
    assert other.add("photos", open_reader("auto", folder), form="image_text", origin="here") == replace(
        made, added=other.info("photos").added
    )


def plan_of(base: KnowledgeBase) -> dict[str, object]:
    return json.loads((base.catalogue.folders.building("photos") / staging.PLAN).read_text())


def change_content(folder: Path) -> None:
    """Of the same length, and with the time of the last change put back."""
    path = folder / "00003.png"
    state, content = path.stat(), path.read_bytes()
    path.write_bytes(content[:-20] + b"x" + content[-19:])
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def change_caption(folder: Path) -> None:
    (folder / "00003.txt").write_text("another one")


def remove_image(folder: Path) -> None:
    (folder / "00003.png").unlink()


@pytest.mark.parametrize("change", [change_content, change_caption, remove_image])
def test_a_changed_file_of_a_folder_is_noticed(
    tmp_path: Path, images_read: list[str], change: Callable[[Path], None]
) -> None:
    encoder, folder = TinyEncoder(), folder_of(tmp_path, range(100))
    base = killed_base(tmp_path / "base", encoder, folder, 80)
    change(folder)
    made = base.add("photos", open_reader("auto", folder), form="image_text", origin="here")
    other = make_base(tmp_path / "other").add("photos", open_reader("auto", folder), form="image_text", origin="here")
    assert made.hash == other.hash
    assert made.num_rejected == other.num_rejected


def test_another_part_of_the_texts_is_noticed(tmp_path: Path, images_read: list[str]) -> None:
    encoder, folder = TinyEncoder(), folder_of(tmp_path, range(100))
    (folder / "00000.txt").write_text("first\nsecond")
    base = killed_base(tmp_path / "base", encoder, folder, 80)
    base.add("photos", open_reader("auto", folder, part="all"), form="image_text", origin="here")
    assert base.retriever().corpus.pair("photos/00000.png").caption == "first second"


def test_files_that_changed_just_now_are_compared_by_their_content(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, range(3))
    assert open_reader("auto", folder).fingerprint() == ""


def test_a_part_that_was_damaged_on_disk_is_made_again(tmp_path: Path, images_read: list[str]) -> None:
    encoder, folder = TinyEncoder(), folder_of(tmp_path, range(100))
    base = killed_base(tmp_path / "base", encoder, folder, 80)
    part = base.catalogue.folders.building("photos") / "00000.originals"
    part.write_bytes(b"x" * part.stat().st_size)
    made = base.add("photos", open_reader("auto", folder), form="image_text", origin="here")
    assert made.num_pairs == 100
    base.catalogue.check("photos")
    other = make_base(tmp_path / "other").add("photos", open_reader("auto", folder), form="image_text", origin="here")
    assert made.files == other.files


def test_a_rebuild_that_was_stopped_has_every_pair_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stops(*given: object) -> None:
        raise StoppedError

    base = make_base(tmp_path)
    base.insert("mine", [*items(range(30)), Item(name="x", image=b"", caption="x")])
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(generations, "write_pairs", stops)
        base.writer.rebuild("mine")
    assert base.catalogue.folders.building("mine").is_dir()
    rebuilt = base.writer.rebuild("mine")
    assert (rebuilt.num_pairs, rebuilt.num_rejected) == (30, 1)


def test_vectors_of_another_encoder_name_the_command_that_makes_new_ones(tmp_path: Path) -> None:
    base = make_base(tmp_path, TinyEncoder("old"))
    base.insert("mine", items(range(30)))
    encoder = TinyEncoder("new")
    base = make_base(tmp_path, encoder)
    with pytest.raises(LineageError, match="run `rag-diffusion kb rebuild mine`"):
        base.retriever()
    assert "kb rebuild mine" in base.list()[0].trouble
    base.writer.rebuild("mine")
    assert encoder.num_images == 30
    assert base.list()[0].trouble == ""
    assert len(base.retriever().corpus) == 30
    assert base.info("mine").form == "uploaded"


def test_pairs_of_another_encoder_are_not_mixed_with_new_ones(tmp_path: Path) -> None:
    make_base(tmp_path, TinyEncoder("old")).insert("mine", [*items(range(5)), Item(name="x", image=b"", caption="x")])
    base = make_base(tmp_path, TinyEncoder("new"))
    with pytest.raises(LineageError, match="kb rebuild mine` before you add to it"):
        base.insert("mine", items([9]))
    rebuilt = base.writer.rebuild("mine")
    assert (rebuilt.num_pairs, rebuilt.num_rejected) == (5, 1)
    assert base.insert("mine", items([9]))[0].num_pairs == 6


def test_a_build_that_was_killed_after_it_took_effect_leaves_no_scratch(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    base.add("photos", items(range(5)))
    building = base.catalogue.folders.building("photos")
    building.mkdir(parents=True)
    (building / "published").write_text("2")  # not yet
    assert building.exists()
    make_base(tmp_path)
    assert building.exists()
    (building / "published").write_text("1")
    make_base(tmp_path)
    assert not building.exists()


def test_every_part_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    plan = {"name": "x"}
    kept = staging.Staging(tmp_path / "x", plan)
    kept.write([staging.Embedded(digest=b"1", candidates=1, pairs=[], rejected=[Rejection(what="a", reason="b")],
                                 image=np.empty((0, 0), np.float32), text=np.empty((0, 0), np.float32))])  # fmt: skip
    again = staging.Staging(tmp_path / "x", plan)
    assert again.parts == kept.parts
    assert list(again.parts[0].rejected()) == [Rejection(what="a", reason="b")]
    assert again.parts[0].table().num_rows == 0
    assert staging.Staging(tmp_path / "x", {"name": "y"}).parts == []


def test_a_build_that_read_nothing_leaves_nothing(tmp_path: Path) -> None:
    base = make_base(tmp_path)

    def broken() -> Iterator[Item]:
        raise DataError("expected an archive, got a folder")
        yield

    for nothing, reason in ((broken(), "an archive"), (iter(()), "nothing at all")):
        with pytest.raises(DataError, match=reason):
            base.add("mine", nothing)
        assert base.catalogue.list() == []
    with pytest.raises(DataError, match="an archive"):
        base.add("mine", chain(items(range(10)), broken()))
    assert [listed.manifest.form for listed in base.catalogue.list()] == ["unfinished"]
