"""COCO annotations, and the JSON that they are read from element by element."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from rag_diffusion.errors import DataError
from rag_diffusion.readers.forms import open_reader
from rag_diffusion.readers.json_stream import MAX_ELEMENT, array_elements
from tests.unit.readers.pictures import parted, picture


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    (root / "train2017").mkdir()
    for number in range(3):
        (root / "train2017" / f"{number:012d}.jpg").write_bytes(picture(number, "JPEG"))
    content = {
        "info": {"year": 2017, "nested": {"deep": [1, 2, {"a": "]"}]}},
        "licenses": [{"id": 4, "name": "CC-BY-2.0", "url": ""}],
        "images": [
            {"id": number, "file_name": f"{number:012d}.jpg", "license": 4, "coco_url": f"https://example.org/{number}"}
            for number in (1, 0, 2)
        ],
        "annotations": [
            {"id": 100 + number, "image_id": number % 2, "caption": f'caption "{number}" ]}}'} for number in range(5)
        ],
    }
    (root / "annotations" / "captions_train2017.json").write_text(json.dumps(content))
    return root


def test_coco_captions(coco: Path) -> None:
    reader = open_reader("auto", coco)
    assert reader.form == "coco"
    items, rejected = parted(reader)
    assert list(items) == [
        f"{image:012d}.jpg#{number}" for image, number in ((1, 101), (1, 103), (0, 100), (0, 102), (0, 104))
    ]
    item = items["000000000001.jpg#103"]
    assert (item.caption, item.licence, item.url) == ('caption "3" ]}', "CC-BY-2.0", "https://example.org/1")
    assert item.image == picture(1, "JPEG")
    assert rejected == {"000000000002.jpg": "image without a caption"}
    by_file = open_reader("coco", coco / "annotations" / "captions_train2017.json", images=coco / "train2017")
    assert list(parted(by_file)[0]) == list(items)


def test_bad_elements_of_coco_are_rejections(coco: Path) -> None:
    path = coco / "annotations" / "captions_train2017.json"
    content = json.loads(path.read_text())
    content["images"] += [
        {"id": 9, "file_name": "../../outside.jpg"},
        {"id": 8, "file_name": "gone.jpg"},
        {"id": 1, "file_name": "again.jpg"},
        {"id": 7},
        "text",
    ]
    content["annotations"] += [
        {"id": 900, "image_id": 9, "caption": "x"},
        {"id": 800, "image_id": 8, "caption": "x"},
        {"id": 600, "image_id": 6, "caption": "of no image"},
        {"id": 601, "image_id": 1},
    ]
    path.write_text(json.dumps(content))
    items, rejected = parted(open_reader("coco", coco))
    assert len(items) == 5
    assert sorted(rejected.values()) == [
        "caption without an image",
        "caption without an image",
        "image named twice",
        "image without a caption",
        "not a COCO element",
        "not a COCO element",
        "not a COCO element",
        "unsafe path",
    ]


@pytest.mark.parametrize("damage", ["cut", "no object", "nested", "not utf-8"])
def test_annotations_that_are_damaged_give_nothing(damage: str, coco: Path) -> None:
    path = coco / "annotations" / "captions_train2017.json"
    content = path.read_bytes()
    damaged = {
        "cut": content[: len(content) * 2 // 3],
        "no object": b"[1, 2]",
        "nested": b'{"images": [' + b"[" * 100_000,
        "not utf-8": content[:-30] + b"\xff\xfe" + content[-30:],
    }
    path.write_bytes(damaged[damage])
    items, rejected = parted(open_reader("coco", coco))
    assert items == {}
    assert rejected == {"captions_train2017.json": "corrupt JSON"}


def test_several_annotation_files_must_be_named(coco: Path) -> None:
    (coco / "annotations" / "captions_val2017.json").write_text("{}")
    with pytest.raises(DataError, match="expected one file of COCO captions, got 2"):
        open_reader("coco", coco)


@pytest.mark.parametrize("chunk", [1, 7, 1 << 16])
def test_a_json_object_is_read_element_by_element(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag_diffusion.readers.json_stream._CHUNK", chunk)
    content = {"a": [1, 23, -4.5e3, "x]", {"y": [1, {}]}, None, True], "b": {"c": [1]}, "d": [], "e": 12, "f": [[]]}
    text = json.dumps(content, indent=1)
    expected = [(key, element) for key in "adf" for element in content[key]]
    assert list(array_elements(io.StringIO(text))) == expected
    assert list(array_elements(io.StringIO(" {} "))) == []
    for cut in range(len(text) - 1):
        with pytest.raises(ValueError, match="expected one of|Expecting|Unterminated|or no JSON"):
            list(array_elements(io.StringIO(text[:cut])))


def test_an_element_that_never_ends_is_given_up() -> None:
    with pytest.raises(ValueError, match="an element of more than"):
        list(array_elements(io.StringIO('{"images": ["' + "x" * 3 * MAX_ELEMENT)))
