"""What `kb add` takes, `ingest` takes: every form of input gives the same pairs and the same rejections to both."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest

from rag_diffusion.config import Config, FolderConfig
from rag_diffusion.corpus.build import build_corpus
from rag_diffusion.corpus.folder import load_pairs
from rag_diffusion.errors import ConfigError
from rag_diffusion.readers.forms import FORMS, open_reader
from rag_diffusion.store.corpus import Corpus
from tests.unit.knowledge.bases import SIZE, make_base
from tests.unit.readers.pictures import animated, parquet, picture, sample, tar_of, write_jsonl, zip_of

RED = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 8"><rect width="16" height="8" fill="red"/></svg>'
LABELS = {"entity": "apple", "category": "fruit", "style": "flat", "title": "red apple", "licence": "MIT"}


def imagefolder(folder: Path) -> Path:
    for number in range(3):
        (folder / f"{number}.png").write_bytes(picture(number))
    (folder / "cut.png").write_bytes(picture(0)[:200])
    rows = [
        {"file_name": "0.png", "text": "one", "split": "test", **LABELS},
        {"file_name": "1.png", "text": "two\nzwei"},
    ]
    write_jsonl(folder / "metadata.jsonl", [*rows, {"file_name": "cut.png", "text": "cut"}, "no json"])
    return folder


def image_text(folder: Path) -> Path:
    (folder / "sub").mkdir()
    for name, content in (("a.png", picture(0)), ("sub/b.jpg", picture(1, "JPEG")), ("c.svg", RED.encode())):
        (folder / name).write_bytes(content)
        (folder / name).with_suffix(".txt").write_text(f"  a picture\0 of  {name}\n")
    (folder / "c.json").write_text(json.dumps(LABELS))
    (folder / "alone.png").write_bytes(picture(2))
    return folder


def photos(folder: Path) -> Path:
    (folder / "red apples").mkdir()
    (folder / "red apples" / "on_a_table.png").write_bytes(picture(0))
    (folder / "IMG_1.png").write_bytes(picture(1))
    return folder


def webdataset(folder: Path) -> Path:
    bad = {"000009.png": b"no image", "000009.txt": b"nothing"}
    tar_of(folder / "00000.tar", sample(0) | sample(1) | bad)
    return folder


def table(folder: Path) -> Path:
    columns = {"image": [picture(0), picture(1), None], "caption": ["one", "two", "three"]}
    labels = {name: [value, "", ""] for name, value in LABELS.items()} | {"split": ["validation", "", ""]}
    return parquet(folder / "rows.parquet", columns | labels)


def arrow(folder: Path) -> Path:
    (folder / "dataset_dict.json").write_text("{}")
    for number, split in enumerate(("train", "test")):
        (folder / split).mkdir()
        rows = pa.table({"image": [picture(number)], "text": [f"of {split}"], "label": [split]})
        with pa.ipc.new_stream(folder / split / "data-00000-of-00001.arrow", rows.schema) as stream:
            stream.write_table(rows)
    return folder


def hub(folder: Path) -> Path:
    for number, split in enumerate(("train", "test")):
        parquet(folder / f"{split}.parquet", {"image": [picture(number)], "text": [f"of {split}"], "label": [split]})
    return folder


def coco(folder: Path) -> Path:
    for number in range(2):
        (folder / f"{number}.jpg").write_bytes(picture(number, "JPEG"))
    images = [{"id": number, "file_name": f"{number}.jpg", "license": 4} for number in range(3)]
    annotations = [{"id": number, "image_id": number // 2, "caption": f"number {number}"} for number in range(5)]
    content = {"licenses": [{"id": 4, "name": "CC-BY-2.0"}], "images": images, "annotations": annotations}
    (folder / "captions.json").write_text(json.dumps(content))
    return folder


def iconify(folder: Path) -> Path:
    icons = {"red-bar": {"body": '<rect width="16" height="8" fill="red"/>'}, "gone": {"body": "", "hidden": True}}
    (folder / "icons.json").write_text(json.dumps({"icons": icons, "width": 16, "height": 16}))
    info = {"name": "Bars", "license": {"spdx": "MIT"}, "author": {"name": "Ann"}}
    (folder / "info.json").write_text(json.dumps(info))
    return folder


def video(folder: Path) -> Path:
    (folder / "grey.gif").write_bytes(animated("GIF", {}))
    (folder / "grey.txt").write_text("grey, brighter and brighter")
    return folder


def archive(folder: Path) -> Path:
    members = {"a.png": picture(0), "a.txt": b"one", "b.svg": RED.encode(), "b.txt": b"a bar", "../out.png": picture(1)}
    return zip_of(folder / "all.zip", members)


FORM_OF: dict[str, Callable[[Path], Path]] = {
    "imagefolder": imagefolder,
    "image_text": image_text,
    "photos": photos,
    "webdataset": webdataset,
    "parquet": table,
    "arrow": arrow,
    "datasets": hub,
    "coco": coco,
    "iconify": iconify,
    "video": video,
    "archive": archive,
}


def test_every_form_has_its_source_here() -> None:
    assert set(FORM_OF) == FORMS - {"auto"}


def said(pair: Any, data_set: str) -> dict[str, Any]:
    """A pair but for its data set's name, and for what a corpus finds out by itself."""
    found = asdict(pair)
    for name in ("family", "duplicate_group", "original"):
        found.pop(name)
    return {
        name: value.removeprefix(data_set).removeprefix("/") if isinstance(value, str) else value
        for name, value in found.items()
    }


@pytest.mark.parametrize("form", FORM_OF)
def test_ingest_takes_what_kb_add_takes(form: str, tmp_path: Path, default_config: Config) -> None:
    (tmp_path / "given").mkdir()
    path = FORM_OF[form](tmp_path / "given")
    base = make_base(tmp_path)
    asked = "datasets" if form == "datasets" else "auto"  # which reads what other forms read as well
    reader = open_reader(asked, path)
    base.add("mine", reader, form=reader.form, licence="CC0-1.0", attribution="me")
    there = base.retriever(["mine"]).corpus
    added = [said(there.pair(name), "mine") for name in there.ids(range(len(there)))]

    given = FolderConfig(path=str(path.relative_to(tmp_path)), form=asked, licence="CC0-1.0", attribution="me")
    pairs, facts = load_pairs(given, tmp_path, SIZE)
    read = [said(pair, "folder") for pair in sorted(pairs, key=lambda pair: pair.pair_id)]
    assert (facts["form"], len(read)) == (form, len(added))
    assert [pair | {"split": pair["split"] or "train"} for pair in read] == added
    assert facts["rejected"] == [asdict(one) for one in base.catalogue.rejections("mine")]

    config = default_config.corpus.model_copy(update={"source": "folder", "image_size": SIZE})
    build_corpus(tmp_path / "corpus", pairs, config, facts)
    corpus = Corpus.open(tmp_path / "corpus")
    kept = [said(corpus.pair(pair.pair_id), "folder") for pair in sorted(pairs, key=lambda pair: pair.pair_id)]
    assert [pair | {"split": ""} for pair in kept] == [pair | {"split": ""} for pair in read]


def test_a_form_is_read_as_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    imagefolder(tmp_path / "given")
    (tmp_path / "given" / "2.txt").write_text("a text beside it")
    asked = FolderConfig(path="given", licence="", attribution="", form="image_text")
    pairs, _ = load_pairs(asked, tmp_path, SIZE)
    assert [(pair.pair_id, pair.caption) for pair in pairs] == [("folder/2.png", "a text beside it")]
    with pytest.raises(ConfigError, match=r"corpus.folder.path: .*expected parquet files"):
        load_pairs(asked.model_copy(update={"form": "parquet"}), tmp_path, SIZE)
    with pytest.raises(ConfigError, match="form: expected one of"):
        load_pairs(asked.model_copy(update={"form": "excel"}), tmp_path, SIZE)


def test_a_corpus_may_lie_elsewhere_and_its_columns_be_named(default_config: Config, tmp_path: Path) -> None:
    folder = FolderConfig(path="", licence="unspecified", attribution="me")
    store = fsspec.filesystem("memory")
    store.pipe("/corpus/0.tar", tar_of(tmp_path / "0.tar", {"a.png": picture(0), "a.txt": b"a fox"}).read_bytes())
    try:
        pairs, facts = load_pairs(folder.model_copy(update={"path": "memory://corpus/0.tar"}), tmp_path, 32)
    finally:
        store.rm("/corpus", recursive=True)
    assert [pair.caption for pair in pairs] == ["a fox"]
    assert facts["form"] == "webdataset"
    (tmp_path / "one").mkdir()
    parquet(tmp_path / "one" / "t.parquet", {"photo": [picture(0)], "words": ["a hare"]})
    (tmp_path / "one" / "README.md").write_text("---\nlicense: mit\n---\n")
    named = {"path": "one", "image_column": "photo", "caption_column": "words"}
    (pair,), _ = load_pairs(folder.model_copy(update=named), tmp_path, 32)
    assert (pair.caption, pair.licence) == ("a hare", "mit")
