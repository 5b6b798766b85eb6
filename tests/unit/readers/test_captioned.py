"""Sources as other tools leave them: img2dataset's files, save_to_disk, captions of many languages, SVG, labels."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.knowledge.catalogue import Catalogue
from rag_diffusion.layout import ENCODER
from rag_diffusion.readers.checked import checked_image, to_pair
from rag_diffusion.readers.forms import open_reader
from rag_diffusion.readers.images import ImageError, decode
from rag_diffusion.readers.records import Item, Rejection
from rag_diffusion.readers.svg import render_drawing, svg_to_png
from rag_diffusion.retrieval.encoder_folder import EncoderFolder
from rag_diffusion.store.manifest import REJECTED, Manifest
from rag_diffusion.types import Pair
from tests.unit.readers.pictures import encoded, noise, parted, picture

BLUE = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><rect width="9" height="9" fill="blue"/></svg>'


def test_the_files_of_img2dataset_are_images_with_texts(tmp_path: Path) -> None:
    folder = tmp_path / "00000"
    folder.mkdir()
    for number in range(2):
        (folder / f"00000000{number}.jpg").write_bytes(picture(number, "JPEG"))
        (folder / f"00000000{number}.txt").write_text(f"picture {number}")
        told = {"key": f"00000000{number}", "url": "https://example.org/x", "status": "success", "caption": "other"}
        (folder / f"00000000{number}.json").write_text(json.dumps(told))
    pq.write_table(pa.table({"url": ["https://example.org/x"], "caption": ["x"]}), tmp_path / "00000.parquet")
    (tmp_path / "00000_stats.json").write_text("{}")
    reader = open_reader("auto", tmp_path)
    assert reader.form == "image_text"
    items, rejected = parted(reader)
    assert {name: item.caption for name, item in items.items()} == {
        "00000/000000000.jpg": "picture 0", "00000/000000001.jpg": "picture 1",
    }  # fmt: skip
    assert rejected == {}


def save_to_disk(folder: Path, numbers: range) -> None:
    """As `datasets.Dataset.save_to_disk` writes it: an Arrow stream, and JSON beside it."""
    folder.mkdir(parents=True)
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    meta = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    table = pa.table(
        {
            "image": pa.array([{"bytes": picture(number), "path": None} for number in numbers], kind),
            "text": [f"number {number}" for number in numbers],
            "label": [number % 2 for number in numbers],
        }
    ).replace_schema_metadata(meta)
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, table.schema) as stream:
        stream.write_table(table, max_chunksize=2)
    (folder / "data-00000-of-00001.arrow").write_bytes(buffer.getvalue())
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text("{}")


def test_what_save_to_disk_wrote_is_read_by_split(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "train", range(3))
    save_to_disk(tmp_path / "validation", range(3, 5))
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    (tmp_path / "train" / "broken.arrow").write_bytes(b"no stream")
    reader = open_reader("auto", tmp_path)
    assert reader.form == "arrow"
    items, rejected = parted(reader)
    assert len(items) == 5
    last = items["validation/data-00000-of-00001.arrow#00000001"]
    assert (last.caption, last.label, last.split) == ("number 4", "cat", "validation")
    assert last.image == picture(4)
    assert rejected == {"train/broken.arrow": "corrupt arrow file"}
    with pytest.raises(DataError, match=r"expected arrow files \(\*.arrow\), got none"):
        open_reader("arrow", tmp_path / "nowhere")


def test_a_text_of_many_languages_is_one_line_and_told(photos: Path) -> None:
    (photos / "a.txt").write_text("a red kangaroo\nein rotes Känguru\nкрасный кенгуру\n")
    (photos / "sub" / "b.txt").write_text("a square")
    reader = open_reader("image_text", photos)
    items, _ = parted(reader)
    assert items["a.png"].caption == "a red kangaroo"
    assert [sentence.split(",")[0] for sentence in reader.doubts.sentences()] == [
        "1 of 2 captions are one line of several"
    ]
    whole, _ = parted(open_reader("image_text", photos, part="all"))
    assert whole["a.png"].caption.endswith("кенгуру\n")
    _, rejected = parted(open_reader("image_text", photos, part="de"))
    assert rejected == {"a.png": "no caption in de", "sub/b.jpg": "no caption in de"}
    with pytest.raises(ConfigError, match="expected first-line, all or a language"):
        open_reader("image_text", photos, part="the second")


def test_texts_by_language_and_numbers_in_fields(photos: Path) -> None:
    rows = [
        {"file_name": "a.png", "text": {"de": "ein Apfel", "en": "an apple"}},
        {"file_name": "sub/b.jpg", "text": 5},
    ]
    (photos / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    items, rejected = parted(open_reader("imagefolder", photos, part="en"))
    assert {name: item.caption for name, item in items.items()} == {"a.png": "an apple"}
    assert rejected == {"sub/b.jpg": "caption is no text"}


def test_drawings_come_as_they_are_and_are_rendered_when_they_are_checked(photos: Path) -> None:
    (photos / "c.svg").write_text(BLUE)
    (photos / "c.txt").write_text("a blue square")
    (photos / "d.svg").write_text("<svg><image href='/etc/passwd'/></svg>")
    (photos / "d.txt").write_text("not ours")
    items, _ = parted(open_reader("image_text", photos))
    assert items["c.svg"].image == BLUE.encode()
    made = to_pair(items["c.svg"], data_set="mine", size=16, licence="MIT", attribution="me")
    assert isinstance(made, Pair)
    assert decode(made.image, "x").getcolors() == [(256, (0, 0, 255))]
    assert made.original == BLUE.encode()
    bad = to_pair(items["d.svg"], data_set="mine", size=16, licence="MIT", attribution="me")
    assert isinstance(bad, Rejection)
    assert bad.kind == "SVG that reaches outside"


@pytest.mark.parametrize("before", ["", "\ufeff \n", "<?xml version='1.0'?>\n<!-- " + "a licence " * 500 + "-->\n"])
def test_a_drawing_is_known_by_its_content(before: str) -> None:
    assert checked_image((before + BLUE).encode(), "a.png", 8).getpixel((4, 4)) == (0, 0, 255)
    with pytest.raises(ImageError, match="not an image"):
        checked_image((before + "<html><body>404</body></html>").encode(), "a.png", 8)


def test_drawings_and_frames_are_as_large_as_their_reader_says_and_sharp_beyond() -> None:
    ring = BLUE.replace("<rect", '<circle cx="4" cy="4" r="3" stroke="red" fill="none"/><rect opacity=".3"').encode()
    assert checked_image(ring, "x", 32, 128) == checked_image(encoded(render_drawing(ring, "x", 128)), "x", 32)
    assert checked_image(ring, "x", 32) == checked_image(svg_to_png(ring, "x"), "x", 32)
    assert checked_image(ring, "x", 300, 128) == render_drawing(ring, "x", 300)
    frame = noise(3, 600, 900)
    small = frame.copy()
    small.thumbnail((200, 200), Image.Resampling.BICUBIC)
    assert checked_image(encoded(frame), "x", 32, 200) == checked_image(encoded(small), "x", 32)
    assert checked_image(encoded(frame), "x", 900, 200) == checked_image(encoded(frame), "x", 900)


def test_entity_and_category_mean_what_they_mean_at_ingest(photos: Path) -> None:
    row = {"file_name": "a.png", "text": "x", "entity": "apple", "category": "fruit"}
    (photos / "metadata.jsonl").write_text(json.dumps(row))
    items, _ = parted(open_reader("imagefolder", photos))

    def made(item: Item) -> Pair:
        pair = to_pair(item, data_set="mine", size=16, licence="MIT", attribution="me")
        assert isinstance(pair, Pair)
        return pair

    pair = made(items["a.png"])
    assert (pair.entity, pair.category) == ("apple", "fruit")
    alone = made(Item(name="b.png", image=picture(), caption="x", label="apple"))
    assert (alone.entity, alone.category) == ("apple", "apple")
    coarse = made(Item(name="c.png", image=picture(), caption="x", category="fruit"))
    assert (coarse.entity, coarse.category) == ("mine/c.png", "fruit")


def test_every_rejection_is_told_with_its_reason(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path, EncoderFolder(tmp_path / ENCODER), 64)
    folders = catalogue.folders
    folders.generation("mine", 1).mkdir(parents=True)
    told = [{"what": f"{number}.png", "reason": "empty file: 0 bytes"} for number in range(2)]
    (folders.generation("mine", 1) / REJECTED).write_text("\n".join(map(json.dumps, told)) + "\n")
    Manifest(name="mine", form="photos", generation=1).write(folders.manifest("mine"))
    assert list(catalogue.rejections("mine")) == [Rejection(**one) for one in told]
    (tmp_path / "data/corpus").mkdir(parents=True)
    (tmp_path / "data/corpus/manifest.json").write_text(json.dumps({"rejected": told}))
    assert len(list(catalogue.rejections("corpus"))) == 2
    with pytest.raises(DataError, match="expected a data set 'other', found none"):
        list(catalogue.rejections("other"))
