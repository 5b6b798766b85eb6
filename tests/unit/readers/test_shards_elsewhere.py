"""Shards over HTTP and in a store, as img2dataset leaves them; and its other forms."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rag_diffusion.errors import DataError
from rag_diffusion.readers.addresses import expanded
from rag_diffusion.readers.forms import open_reader
from rag_diffusion.readers.records import Item, Rejection
from rag_diffusion.readers.tar_stream import TAR_SUFFIXES
from tests.unit.guarded_http.wild import Wild, says, wild
from tests.unit.readers.pictures import DRAWING, picture, tar_of

STATUS = {"url": "https://example.org/{}.jpg", "status": "success", "error_message": None, "width": 64, "height": 64}


def row(number: int) -> dict[str, object]:
    """What img2dataset notes of a picture."""
    return STATUS | {"caption": f"picture {number}", "key": f"{number:09d}", "url": STATUS["url"].format(number)}


def sample(number: int) -> dict[str, bytes]:
    """The files of a picture, as img2dataset writes them."""
    key = f"{number:09d}"
    texts = {f"{key}.txt": f"picture {number}".encode(), f"{key}.json": json.dumps(row(number)).encode()}
    return {f"{key}.jpg": picture(number, "JPEG")} | texts


def shard(*numbers: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        files = {name: content for number in numbers for name, content in sample(number).items()}
        return tar_of(Path(folder) / "shard.tar", files).read_bytes()


def captions(source: Path | str, **options: object) -> list[str]:
    return [one.caption if isinstance(one, Item) else one.reason for one in open_reader("auto", source, **options)]


@pytest.fixture
def server() -> Iterator[Wild]:
    with wild() as running:
        yield running


def test_shards_of_a_store_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    store = fsspec.filesystem("memory")
    for number in range(3):
        store.pipe(f"/bucket/{number:05d}.tar", shard(2 * number, 2 * number + 1))
    store.pipe("/bucket/00000.parquet", b"beside them")
    try:
        assert captions("memory://bucket/{00000..00002}.tar") == [f"picture {number}" for number in range(6)]
        reader = open_reader("auto", "memory://bucket/*.tar")
        assert (reader.form, reader.why) == ("webdataset", "its name ends as a shard's")
        found = [one for one in reader if isinstance(one, Item)]
        assert [found[0].name, found[-1].name] == ["00000.tar/000000000.jpg", "00002.tar/000000005.jpg"]
        assert found[0].url == "https://example.org/0.jpg"
        assert [one.caption for one in reader if isinstance(one, Item)] == [one.caption for one in found]
        with pytest.raises(DataError, match="expected tar shards, got none"):
            open_reader("auto", "memory://bucket/more-*.tar")
    finally:
        store.rm("/bucket", recursive=True)


def test_shards_over_http_come_from_named_hosts_alone(server: Wild) -> None:
    for number in range(2):
        server.paths[f"/{number:03d}.tar"] = says(shard(number), "application/x-tar")
    address = f"{server.url}/{{000..002}}.tar"
    found = captions(address, allow_hosts=[f"127.0.0.1:{server.port}"])
    assert found[:2] == ["picture 0", "picture 1"]
    assert "expected status 200, got 404" in found[2]
    refused = captions(address)
    assert len(refused) == 3
    assert all("public addresses, got 127.0.0.1" in one for one in refused)


@pytest.mark.parametrize("address", ["s3://bucket/a.tar", "https://host/a.tar::x", "file:///etc/a.tar"])
def test_what_cannot_be_reached_is_one_message(address: str) -> None:
    with pytest.raises(DataError, match="expected (a store that|an address of)|another address"):
        open_reader("auto", address)


def test_ranges_stand_for_each_of_their_numbers() -> None:
    assert expanded("s3://b/{08..11}.tar") == [f"s3://b/{number}.tar" for number in ("08", "09", "10", "11")]
    assert len(expanded("s3://b/{0..3}/{00..11}.tar")) == 48
    with pytest.raises(DataError, match="range of at most"):
        expanded("s3://b/{3..1}.tar")
    assert ".tar" in TAR_SUFFIXES


def aside(folder: Path, numbers: list[int]) -> None:
    """What img2dataset writes beside its shards: a table, and counts."""
    rows = [row(number) for number in numbers]
    failed = row(99) | {"status": "failed_to_download", "error_message": "HTTP Error 404: Not Found", "width": None}
    pq.write_table(pa.Table.from_pylist([*rows, failed]), folder / "00000.parquet")
    (folder / "00000_stats.json").write_text(json.dumps({"count": 3, "successes": 2, "failed_to_download": 1}))


def test_img2dataset_as_webdataset(tmp_path: Path) -> None:
    (tmp_path / "00000.tar").write_bytes(shard(0, 1))
    aside(tmp_path, [0, 1])
    assert open_reader("auto", tmp_path).form == "webdataset"
    assert captions(tmp_path) == ["picture 0", "picture 1"]


def test_img2dataset_as_files(tmp_path: Path) -> None:
    folder = tmp_path / "00000"
    folder.mkdir()
    for number in (0, 1):
        for name, content in sample(number).items():
            (folder / name).write_bytes(content)
    aside(tmp_path, [0, 1])
    assert captions(tmp_path) == ["picture 0", "picture 1"]


def test_img2dataset_as_parquet_tells_what_was_not_downloaded(tmp_path: Path) -> None:
    aside(tmp_path, [0, 1])
    rows = pq.read_table(tmp_path / "00000.parquet").to_pylist()
    images = [picture(0, "JPEG"), picture(1, "JPEG"), None]
    made = [one | {"jpg": image} for one, image in zip(rows, images, strict=True)]
    pq.write_table(pa.Table.from_pylist(made), tmp_path / "00000.parquet")
    found = captions(tmp_path)
    assert found == ["picture 0", "picture 1", "not downloaded: HTTP Error 404: Not Found"]
    first = next(iter(open_reader("auto", tmp_path)))
    assert isinstance(first, Item)
    assert (first.name, first.url) == ("000000000", "https://example.org/0.jpg")


def test_a_folder_of_drawings_is_captioned_by_names(tmp_path: Path) -> None:
    for name in ("animals/red-fox.svg", "animals/snow_owl.svg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(DRAWING)
    found = list(open_reader("auto", tmp_path))
    assert not any(isinstance(one, Rejection) for one in found)
    assert [(one.caption, one.label, one.image) for one in found if isinstance(one, Item)] == [
        ("red fox, animals", "animals", DRAWING), ("snow owl, animals", "animals", DRAWING),
    ]  # fmt: skip
