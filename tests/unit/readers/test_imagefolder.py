"""Folders of images with captions, and Iconify packages."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.readers.checked import checked_image, to_pair
from rag_diffusion.readers.fields import CAPTIONS
from rag_diffusion.readers.forms import FORMS, open_reader
from rag_diffusion.readers.records import Item, Rejection
from tests.unit.readers.pictures import parquet, parted, picture, write_jsonl

RED = '<rect width="16" height="16" fill="red"/>'


def test_imagefolder_with_metadata(photos: Path) -> None:
    write_jsonl(
        photos / "metadata.jsonl",
        [
            {"file_name": "a.png", "text": "a circle", "label": "circle", "license": "MIT", "author": "Ann"}
            | {"split": "val"},
            {"file_name": "sub/b.jpg", "caption": "a square", "url": "https://example.org/b", "style": "flat"}
            | {"title": "b"},
        ],
    )
    items, rejected = parted(open_reader("imagefolder", photos))
    assert rejected == {}
    assert items["a.png"] == Item(
        name="a.png",
        image=picture(0),
        caption="a circle",
        label="circle",
        licence="MIT",
        attribution="Ann",
        split="val",
    )
    assert (items["sub/b.jpg"].url, items["sub/b.jpg"].style, items["sub/b.jpg"].title) == (
        "https://example.org/b",
        "flat",
        "b",
    )


def test_metadata_may_lie_in_each_folder_below(photos: Path) -> None:
    (photos / "train").mkdir()
    (photos / "a.png").rename(photos / "train" / "a.png")
    write_jsonl(photos / "train" / "metadata.jsonl", [{"file_name": "a.png", "text": "one"}])
    write_jsonl(photos / "sub" / "metadata.jsonl", ["{", {"file_name": "b.jpg", "text": "two"}])
    items, rejected = parted(open_reader("imagefolder", photos))
    assert {name: item.caption for name, item in items.items()} == {"train/a.png": "one", "sub/b.jpg": "two"}
    assert rejected == {"sub/metadata.jsonl:1": "no JSON object with file_name"}


def test_every_bad_line_of_metadata_is_a_rejection_and_the_rest_is_read(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture(2))
    (photos / "lonely.png").write_bytes(picture(2))
    (photos / "phone.heic").write_bytes(b"x")
    (photos / "README.md").write_text("passed over")
    write_jsonl(
        photos / "metadata.jsonl",
        [
            "no json",
            "[" * 100_000,
            json.dumps({"file_name": "long.png", "text": "x" * (1 << 20)}),
            {"file_name": "../secret.png", "text": "leads out"},
            {"file_name": "gone.png", "text": "x"},
            "",
            {"file_name": "a.png", "text": "fine"},
            {"file_name": "a.png", "text": "again"},
        ],
    )
    with (photos / "metadata.jsonl").open("ab") as file:
        file.write(b'\n\xff\xfe\n{"file_name": "sub/b.jpg", "text": "also fine"}')
    items, rejected = parted(open_reader("imagefolder", photos))
    assert {name: item.caption for name, item in items.items()} == {"a.png": "fine", "sub/b.jpg": "also fine"}
    assert rejected == {
        "metadata.jsonl:1": "no JSON object with file_name",
        "metadata.jsonl:2": "no JSON object with file_name",
        "metadata.jsonl:3": "text too long",
        "metadata.jsonl:4": "caption without an image",
        "metadata.jsonl:5": "caption without an image",
        "metadata.jsonl:8": "image named twice",
        "metadata.jsonl:9": "no JSON object with file_name",
        "lonely.png": "image without a caption",
        "phone.heic": "not a form that is read",
    }


@pytest.mark.parametrize("key", CAPTIONS)
def test_a_caption_has_the_same_names_in_a_table_a_list_and_a_file_beside_the_image(key: str, photos: Path) -> None:
    (photos / "a.json").write_text(json.dumps({key: "a red circle"}))
    beside, _ = parted(open_reader("image_text", photos))
    write_jsonl(photos / "metadata.jsonl", [{"file_name": "a.png", key: "a red circle"}])
    listed, _ = parted(open_reader("imagefolder", photos))
    parquet(photos / "rows.parquet", {"image": [picture(0)], key: ["a red circle"]})
    rows, _ = parted(open_reader("parquet", photos))
    assert {one.caption for items in (beside, listed, rows) for one in items.values()} == {"a red circle"}
    assert (len(beside), len(listed), len(rows)) == (1, 1, 1)


def test_image_and_text_side_by_side(photos: Path) -> None:
    (photos / "a.txt").write_bytes("\ufeffein roter Kreis\n".encode())
    (photos / "sub" / "b.json").write_text(json.dumps({"caption": "a square", "label": "square"}))
    items, rejected = parted(open_reader("image_text", photos))
    assert rejected == {}
    assert items["a.png"].caption == "ein roter Kreis"
    assert (items["sub/b.jpg"].caption, items["sub/b.jpg"].label) == ("a square", "square")


def test_bad_files_side_by_side_are_rejections(photos: Path) -> None:
    (photos / "a.txt").write_bytes(b"\xff\xfe bad")
    (photos / "ghost.txt").write_text("nobody")
    (photos / "huge.png").write_bytes(picture(2))
    (photos / "huge.txt").write_text("x" * ((1 << 20) + 1))
    (photos / "twin.png").write_bytes(picture(2))
    (photos / "twin.jpg").write_bytes(picture(2, "JPEG"))
    (photos / "twin.txt").write_text("which of them?")
    (photos / "dangling.png").symlink_to(photos / "nowhere.png")
    (photos / ".hidden.png").write_bytes(b"told of")
    os.mkfifo(photos / "pipe.png")
    items, rejected = parted(open_reader("image_text", photos))
    assert list(items) == ["twin.jpg"]
    assert rejected == {
        "a.png": "caption is not UTF-8",
        "sub/b.jpg": "image without a caption",
        "ghost.txt": "caption without an image",
        "huge.png": "text too long",
        "twin.png": "image without a caption",
        "dangling.png": "unreadable file",
        ".hidden.png": "hidden file",
        "pipe.png": "unreadable file",
    }


def test_captions_from_names_where_they_say_something(tmp_path: Path) -> None:
    for name in ("pets/old cats/grey_cat-02.png", "pets/IMG_2041.png", "IMG_2042.png", "cup.png", "Käse.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture())
    (tmp_path / "cup.txt").write_text("a blue cup")
    items, rejected = parted(open_reader("image_text", tmp_path, names=True))
    assert {name: (item.caption, item.label) for name, item in items.items()} == {
        "pets/old cats/grey_cat-02.png": ("grey cat, old cats, pets", "old cats"),
        "pets/IMG_2041.png": ("pets", "pets"),
        "cup.png": ("a blue cup", ""),
        "Käse.png": ("Käse", ""),
    }
    assert rejected == {"IMG_2042.png": "image without a caption"}


def test_names_that_are_no_utf8_are_read_and_written_as_bytes(photos: Path) -> None:
    (photos / os.fsdecode(b"caf\xe9.png")).write_bytes(picture(2))
    (photos / os.fsdecode(b"caf\xe9.txt")).write_text("coffee")
    items, _ = parted(open_reader("image_text", photos))
    assert items["caf%E9.png"].caption == "coffee"


def test_reading_twice_gives_the_same_in_the_same_order(photos: Path) -> None:
    for name in ("z.png", "m.png", "k.png"):
        (photos / name).write_bytes(picture(2))
        (photos / name).with_suffix(".txt").write_text(name)
    reader = open_reader("image_text", photos)
    once = list(reader)
    assert once == list(reader)
    names = [one.name for one in once if isinstance(one, Item)]
    assert names == ["k.png", "m.png", "z.png"]


def iconify(folder: Path) -> Path:
    package = folder / "package"
    package.mkdir(parents=True)
    outward = '<image href="/etc/hostname" width="16" height="16"/>'
    icons = {
        "red-square": {"body": RED},
        "gone": {"body": RED, "hidden": True},
        "empty": {"body": ""},
        "broken": {"body": "<rect"},
        "no-body": {},
        "outward": {"body": RED + outward},
        "inward": {"body": f'<g id="a">{RED}</g><use href="#a"/>'},
    }
    (package / "icons.json").write_text(json.dumps({"icons": icons, "width": 16, "height": 16}))
    info = {"name": "Plain Shapes", "license": {"spdx": "MIT"}, "author": {"name": "Ann"}}
    (package / "info.json").write_text(json.dumps(info))
    (package / "metadata.json").write_text(json.dumps({"categories": {"Geometry": ["red-square"]}}))
    return package


@pytest.mark.parametrize("packed", [False, True])
def test_an_iconify_package_packed_or_unpacked(packed: bool, tmp_path: Path) -> None:
    path = iconify(tmp_path / "set")
    if packed:
        path = tmp_path / "shapes-1.0.0.tgz"
        with tarfile.open(path, "w:gz") as tar:
            tar.add(tmp_path / "set" / "package", "package")
    reader = open_reader("auto", path)
    assert reader.form == "iconify"
    items, rejected = parted(reader)
    assert sorted(items) == ["broken", "empty", "inward", "red-square"]
    item = items["red-square"]
    assert item.caption == "an icon of a red square, Plain Shapes style, geometry"
    assert (item.label, item.licence, item.attribution) == ("red square", "MIT", "Ann")
    assert item.image.startswith(b"<svg ")
    assert checked_image(item.image, "x", 64, item.side).getpixel((32, 32)) == (255, 0, 0)
    assert item.side == 128
    for name in ("empty", "broken"):
        bad = to_pair(items[name], data_set="mine", size=16, licence="", attribution="")
        assert isinstance(bad, Rejection)
        assert bad.kind == "does not render"
    assert rejected == {
        "gone": "hidden icon",
        "no-body": "does not render",
        "outward": "unsafe SVG",
    }


def all_sets(folder: Path) -> Path:
    """The package of all sets: one file a set, with its information."""
    sets: dict[str, dict[str, object]] = {
        "plain": {"icons": {"red-square": {"body": RED}, "gone": {"body": RED, "hidden": True}}, "width": 16},
        "other": {"icons": {"red-square": {"body": RED}}, "categories": {"Geometry": ["red-square"]}},
        "unlicensed": {"icons": {"red-square": {"body": RED}}},
    }
    (folder / "json").mkdir(parents=True)
    (folder / "collections.json").write_text("{}")
    for prefix, data in sets.items():
        info: dict[str, object] = {"name": f"{prefix} shapes".title(), "author": {"name": "Ann"}}
        if prefix != "unlicensed":
            info["license"] = {"spdx": "MIT"} if prefix == "plain" else {"title": "Own words"}
        (folder / "json" / f"{prefix}.json").write_text(json.dumps({"prefix": prefix, "info": info, **data}))
    (folder / "json" / "broken.json").write_text('{"prefix": "broken"')
    (folder / "json" / "strange.json").write_text("[1]")
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_the_package_of_all_sets_of_iconify(packed: bool, tmp_path: Path) -> None:
    path = all_sets(tmp_path / "package")
    if packed:
        path = tmp_path / "iconify-json-2.2.1.tgz"
        with tarfile.open(path, "w:gz") as tar:
            tar.add(tmp_path / "package", "package")
    reader = open_reader("auto", path)
    assert reader.form == "iconify"
    assert "all sets" in reader.why
    items, rejected = parted(reader)
    assert sorted(items) == ["other/red-square", "plain/red-square"]
    assert items["plain/red-square"].caption == "an icon of a red square, Plain Shapes style"
    assert items["other/red-square"].caption == "an icon of a red square, Other Shapes style, geometry"
    assert [items[name].licence for name in sorted(items)] == ["Own words", "MIT"]
    assert items["plain/red-square"].label == items["other/red-square"].label == "red square"
    assert rejected == {
        "json/broken.json": "damaged set",
        "json/strange.json": "damaged set",
        "json/unlicensed.json": "set without a licence",
        "plain/gone": "hidden icon",
    }


def test_a_package_of_npm_by_its_address_once_it_is_in_the_cache(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    with tarfile.open(cache / "iconify-json-2.2.1.tgz", "w:gz") as tar:
        tar.add(all_sets(tmp_path / "package"), "package")
    for address in ("npm:@iconify/json", "npm:@iconify/json@2.2.1"):
        reader = open_reader("auto", address, cache=cache)
        assert (reader.form, reader.path, len(parted(reader)[0])) == ("iconify", address, 2)
    for address in ("npm:@iconify/json@latest", "npm:@other/json", "npm:@iconify-json/../x"):
        with pytest.raises(DataError, match="expected npm:@iconify/json or npm:@iconify-json/SET"):
            open_reader("auto", address, cache=cache)


def test_a_package_that_is_none_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as tar:
        info = tarfile.TarInfo("package/icons.json")
        tar.addfile(info, io.BytesIO())
    with pytest.raises(DataError, match=r"expected an? (Iconify package|icons.json)|as Iconify writes them"):
        open_reader("iconify", tmp_path / "x.tgz")
    (tmp_path / "y.tgz").write_bytes(b"\x1f\x8b no")
    with pytest.raises(DataError, match=r"y.tgz: expected an Iconify package with icons.json"):
        open_reader("iconify", tmp_path / "y.tgz")


@pytest.mark.parametrize("form", sorted(FORMS))
def test_nothing_there_is_an_error_that_says_so(form: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: expected"):
        open_reader(form, tmp_path / "nowhere")


def test_an_unknown_form_or_option_is_refused(photos: Path) -> None:
    with pytest.raises(ConfigError, match="form: expected one of .*webdataset, got 'csv'"):
        open_reader("csv", photos)
    with pytest.raises(ConfigError, match="form imagefolder has no such option"):
        open_reader("imagefolder", photos, interval=1.0)


def test_rejections_have_printable_names() -> None:
    assert Rejection(what="x", reason="truncated image: 5 bytes").kind == "truncated image"
