"""What form lies at a path, when nobody says."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag_diffusion.errors import DataError
from rag_diffusion.readers.forms import open_reader
from rag_diffusion.readers.guess import guess_form
from tests.unit.readers.pictures import animated, picture

INFO = b'{"name": "x", "license": {"spdx": "MIT"}, "author": {"name": "x"}}'
CASES: list[tuple[str, dict[str, bytes]]] = [
    ("imagefolder", {"metadata.jsonl": b"{}", "a.png": b"", "a.txt": b""}),
    ("imagefolder", {"train/metadata.jsonl": b"{}", "train/a.png": b"", "README.md": b""}),
    ("image_text", {"a.png": b"", "a.txt": b"", "movie.mp4": b""}),
    ("photos", {"cats/a.jpg": b"", "dogs/b.jpg": b"", ".hidden/metadata.jsonl": b"", "README.txt": b""}),
    ("image_text", {"cats/a.jpg": b"", "dogs/b.jpg": b"", "dogs/b.txt": b""}),
    ("webdataset", {"00000.tar": b"", "00000.parquet": b"", "00000_stats.json": b""}),
    ("parquet", {"data/train-00000.parquet": b"", "README.md": b"", "dataset_infos.json": b""}),
    ("image_text", {"00000/0.jpg": b"", "00000/0.txt": b"", "00000/0.json": b"", "00000.parquet": b""}),
    ("image_text", {"0.jpg": b"", "0.json": b"", "all.parquet": b""}),
    ("arrow", {"train/data-00000-of-00001.arrow": b"", "train/state.json": b"", "dataset_dict.json": b""}),
    ("coco", {"annotations/captions_val2017.json": b"", "val2017/a.jpg": b""}),
    ("iconify", {"icons.json": b'{"icons": {}}', "info.json": INFO}),
    ("iconify", {"package/icons.json": b'{"icons": {}}', "package/info.json": INFO}),
    ("video", {"a.mp4": b"", "a.txt": b""}),
    ("video", {"a.webp": animated("WEBP", {}), "a.txt": b"", "b.webp": picture(0, "WEBP")}),
    ("image_text", {"a.webp": animated("WEBP", {}), "a.txt": b"", "b.jpg": picture(0, "JPEG")}),
    ("image_text", {"a.webp": picture(0, "WEBP"), "a.txt": b""}),
]


@pytest.mark.parametrize(("form", "files"), CASES)
@pytest.mark.parametrize("above", ["", "outer/inner"])
def test_a_folder(form: str, files: dict[str, bytes], above: str, tmp_path: Path) -> None:
    for name, content in files.items():
        path = tmp_path / above / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    guessed, path, why = guess_form(tmp_path)
    assert guessed == form
    if form not in ("coco", "iconify"):  # names must not change when another folder comes to lie beside the first
        assert path == tmp_path
    open_reader(form, path)
    assert why


@pytest.mark.parametrize(
    ("form", "name", "content"),
    [
        ("parquet", "a.parquet", b""),
        ("coco", "captions.json", b"{}"),
        ("archive", "a.zip", b""),
        ("archive", "a.tar.gz", b"damaged"),
        ("video", "a.mp4", b""),
        ("video", "a.gif", animated("GIF", {})),
    ],
)
def test_a_file(form: str, name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert guess_form(tmp_path / name)[:2] == (form, tmp_path / name)


def test_what_has_no_form_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x")
    (tmp_path / "still.gif").write_bytes(picture(0, "GIF"))
    for name in ("a.csv", "still.gif"):
        with pytest.raises(DataError, match="expected a folder, .zip, .tar"):
            guess_form(tmp_path / name)
    (tmp_path / "still.gif").unlink()
    with pytest.raises(DataError, match=r"expected metadata.jsonl, \*.tar"):
        guess_form(tmp_path)
    with pytest.raises(DataError, match="expected a file or a folder, got none"):
        guess_form(tmp_path / "nowhere")


def test_an_opened_reader_says_what_was_guessed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(picture())
    reader = open_reader("auto", tmp_path)
    assert (reader.form, reader.path) == ("photos", tmp_path)
    assert reader.why == "it holds a.png and no text file: captions are made of names"
    asked = open_reader("photos", tmp_path)
    assert (asked.form, asked.path, asked.why) == ("photos", tmp_path, "")
