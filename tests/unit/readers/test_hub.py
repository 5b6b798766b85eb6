"""What the package `datasets` reads and writes, with its own code on both sides."""

from __future__ import annotations

import io
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rag_diffusion.errors import DataError
from rag_diffusion.readers.addresses import hub_address
from rag_diffusion.readers.forms import open_reader
from rag_diffusion.readers.records import Item, Rejection
from tests.unit.readers.pictures import picture


@pytest.fixture(autouse=True)
def _scratch(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept in the user's own folders."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def table(captions: list[str], **columns: list[object]) -> datasets.Dataset:
    """A data set with a column `image` of real pictures."""
    pictures = [{"bytes": picture(number), "path": None} for number in range(len(captions))]
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    made = datasets.Dataset.from_dict({"image": pictures, "text": captions}, features=features)
    for name, values in columns.items():
        made = made.add_column(name, values)
    return made


def read(source: Path | str, form: str = "auto", **options: object) -> list[Item | Rejection]:
    return list(open_reader(form, source, **options))


def test_what_save_to_disk_wrote_is_read_without_the_package(tmp_path: Path) -> None:
    splits = {"train": table(["a fox", "a hare"]), "validation": table(["an owl"])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    reader = open_reader("auto", tmp_path / "saved")
    assert reader.form == "arrow"
    found = [(item.caption, item.split, item.image) for item in reader if isinstance(item, Item)]
    assert found == [
        ("a fox", "train", picture(0)), ("a hare", "train", picture(1)), ("an owl", "validation", picture(0)),
    ]  # fmt: skip


def test_a_folder_of_parquet_is_streamed_with_its_splits(tmp_path: Path) -> None:
    folder = tmp_path / "foxes"
    for split, captions in (("train", ["a fox", ""]), ("test", ["an owl"])):
        table(captions, licence=["CC-BY-4.0"] * len(captions)).to_parquet(
            folder / "data" / f"{split}-00000-of-00001.parquet"
        )
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Foxes\n")
    reader = open_reader("datasets", folder)
    first, empty, last = list(reader)
    assert isinstance(first, Item)
    assert (first.name, first.caption, first.split, first.licence) == ("train#00000000", "a fox", "train", "CC-BY-4.0")
    assert Image.open(io.BytesIO(first.image)).size == (64, 64)
    assert isinstance(empty, Rejection)
    assert empty.reason == "image without a caption: the cell is empty"
    assert isinstance(last, Item)
    assert last.split == "test"
    assert reader.licence("unspecified") == "cc-by-4.0"
    assert reader.licence("MIT") == "MIT"


def test_columns_are_guessed_or_named(tmp_path: Path) -> None:
    made = table(["a fox"]).rename_column("text", "zh_words").add_column("others", ["nothing"])
    made.to_parquet(tmp_path / "one" / "train.parquet")
    with pytest.raises(DataError, match=r"expected the column one that is told to be of captions, got image \(Image\)"):
        read(tmp_path / "one", "datasets")
    (item,) = read(tmp_path / "one", "datasets", caption_column="zh_words")
    assert isinstance(item, Item)
    assert item.caption == "a fox"
    with pytest.raises(DataError, match="expected the column 'photo'"):
        read(tmp_path / "one", "datasets", caption_column="zh_words", image_column="photo")
    made.remove_columns("others").to_parquet(tmp_path / "two" / "train.parquet")
    (item,) = read(tmp_path / "two", "datasets")
    assert isinstance(item, Item)
    assert item.caption == "a fox"


def test_names_of_classes_are_captions_where_there_are_no_others(tmp_path: Path) -> None:
    made = table(["-", "-"]).remove_columns("text").add_column("label", [1, 0])
    made = made.cast_column("label", datasets.ClassLabel(names=["snow_owl", "red_fox"]))
    made.to_parquet(tmp_path / "train.parquet")
    found = [item for item in read(tmp_path, "datasets") if isinstance(item, Item)]
    assert [(item.caption, item.label) for item in found] == [("red fox", "red_fox"), ("snow owl", "snow_owl")]


def test_images_as_files_with_metadata_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    (folder / "a.png").write_bytes(picture(1))
    (folder / "metadata.csv").write_text("file_name,text\na.png,a square\n")
    (item,) = read(tmp_path, "datasets")
    assert isinstance(item, Item)
    assert (item.caption, item.image) == ("a square", picture(1))


def test_a_row_leads_to_no_other_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture(0))
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    names = [str(secret), "http://127.0.0.1:9/x.png", f"zip://x.png::file://{secret}", "../secret.png"]
    rows = pa.table(
        {"image": [{"bytes": None, "path": name} for name in names], "text": ["x"] * len(names)},
        schema=features.arrow_schema,
    )
    (tmp_path / "set").mkdir()
    pq.write_table(rows, tmp_path / "set" / "train.parquet")
    found = read(tmp_path / "set", "datasets")
    assert [isinstance(one, Rejection) and one.reason.split(":")[0] for one in found] == ["image only by address"] * 4


def test_addresses_are_read_or_refused() -> None:
    assert hub_address("hf://datasets/me/foxes") == ("me/foxes", None, {})
    given = hub_address("hf://datasets/me/foxes@v1?config=small&split=train")
    assert given == ("me/foxes", "v1", {"config": "small", "split": "train"})
    for wrong in ("hf://datasets/", "hf://datasets/a/b/c", "hf://datasets/a/b?token=x"):
        with pytest.raises(DataError, match="expected hf://datasets/OWNER/NAME"):
            hub_address(wrong)
    with pytest.raises(DataError, match="got another address; download it"):
        open_reader("auto", "ftp://host/pictures.zip")


def test_what_is_no_data_set_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"x")
    with pytest.raises(DataError, match="expected a data set, got"):
        read(tmp_path, "datasets")
