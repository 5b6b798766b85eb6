"""WebDataset shards and parquet tables."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rag_diffusion.readers.forms import open_reader
from tests.unit.readers.pictures import noise, parquet, parted, picture, sample, tar_of


@pytest.mark.parametrize(("suffix", "mode"), [("tar", "w"), ("tgz", "w:gz"), ("tar.bz2", "w:bz2"), ("tar.xz", "w:xz")])
def test_one_shard(suffix: str, mode: str, tmp_path: Path) -> None:
    path = tar_of(tmp_path / f"s.{suffix}", sample(0) | sample(1), mode)
    reader = open_reader("auto", path)
    assert reader.form == "webdataset"
    items, rejected = parted(reader)
    assert rejected == {}
    assert sorted(items) == [f"s.{suffix}/000000.png", f"s.{suffix}/000001.png"]
    item = items[f"s.{suffix}/000001.png"]
    assert (item.image, item.caption, item.licence) == (picture(1), "caption 1", "MIT")
    assert item.url == "https://example.org/1"


def test_many_shards_and_a_damaged_one_among_them(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(4):
        tar_of(folder / f"{number}.tar", sample(2 * number) | sample(2 * number + 1))
    (folder / "1.tar").write_bytes((folder / "1.tar").read_bytes()[:2500])
    damaged = bytearray((folder / "2.tar").read_bytes())
    second = damaged.index(b"000005.png")
    damaged[second + 110] ^= 255
    (folder / "2.tar").write_bytes(damaged)
    (folder / "3.tar").write_bytes(b"no tar at all" * 100)
    reader = open_reader("auto", folder)
    assert reader.form == "webdataset"
    items, rejected = parted(reader)
    assert sorted(items) == ["0.tar/000000.png", "0.tar/000001.png"]
    assert rejected == {
        "1.tar": "truncated archive",
        "1.tar/000002": "incomplete sample",
        "2.tar": "corrupt archive",
        "2.tar/000004": "incomplete sample",
        "3.tar": "corrupt archive",
    }


def test_bad_samples_are_rejections_and_the_next_is_read(tmp_path: Path) -> None:
    members = [
        ("a.png", picture()),
        ("b.txt", b"no image"),
        ("c.png", picture()),
        ("c.txt", b"\xff\xfe"),
        ("d.png", picture()),
        ("d.json", b"[1, 2]"),
        ("e.png", picture()),
        ("e.txt", b"x" * ((1 << 20) + 1)),
        ("../f.png", picture()),
        ("../f.txt", b"leads out"),
        ("g.npy", b"passed over"),
        ("h.png", picture()),
        ("h.txt", b"fine"),
        ("h.png", picture()),
        ("h.cls", b"circle"),
        ("i.left.png", picture(1)),
        ("i.right.png", picture(2)),
        ("i.txt", b"two views"),
    ]
    items, rejected = parted(open_reader("webdataset", tar_of(tmp_path / "s.tar", members)))
    assert sorted(items) == ["s.tar/h.png", "s.tar/i.left.png", "s.tar/i.right.png"]
    assert items["s.tar/h.png"].label == "circle"
    assert rejected == {
        "s.tar/a.png": "image without a caption",
        "s.tar/b": "caption without an image",
        "s.tar/c.txt": "caption is not UTF-8",
        "s.tar/d.json": "no JSON object",
        "s.tar/e.txt": "file too large",
        "s.tar/../f": "unsafe path",
    }


def test_a_sample_of_too_many_images_is_refused_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag_diffusion.readers.webdataset._MAX_SAMPLE", 2 * len(picture()) + 10)
    members = [(f"a.{number}.png", picture()) for number in range(4)]
    members += [("a.txt", b"many"), ("b.png", picture()), ("b.txt", b"one")]
    items, rejected = parted(open_reader("webdataset", tar_of(tmp_path / "s.tar", members)))
    assert list(items) == ["s.tar/b.png"]
    assert rejected == {"s.tar/a.2.png": "too many images", "s.tar/a.3.png": "too many images"}


def test_a_shard_of_links_and_devices(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.LNKTYPE), ("c.png", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    items, rejected = parted(open_reader("webdataset", tmp_path / "s.tar"))
    assert items == {}
    assert set(rejected.values()) == {"no regular file"}
    assert len(rejected) == 3


def test_a_header_cannot_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "s.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a.png")
        info.pax_headers = {"comment": "x" * (3 << 20)}
        tar.addfile(info)
    _, rejected = parted(open_reader("webdataset", path))
    assert rejected == {"s.tar.gz": "corrupt archive"}


def test_parquet_with_image_bytes(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "t.parquet",
        {"image": [picture(0), picture(1)], "text": ["one", "two"], "license": ["MIT", None], "split": ["test", None]},
    )
    reader = open_reader("auto", path)
    assert reader.form == "parquet"
    items, rejected = parted(reader)
    assert rejected == {}
    assert sorted(items) == ["t.parquet#00000000", "t.parquet#00000001"]
    assert (items["t.parquet#00000000"].image, items["t.parquet#00000000"].licence) == (picture(0), "MIT")
    assert items["t.parquet#00000000"].split == "test"
    assert (items["t.parquet#00000001"].caption, items["t.parquet#00000001"].licence) == ("two", "")


def test_parquet_of_hugging_face_with_class_names(tmp_path: Path) -> None:
    features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    table = pa.table(
        {"image": [{"bytes": picture(), "path": "a.png"}], "label": [1], "caption": [["a dog", "on grass"]]},
    ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "t.parquet")
    items, rejected = parted(open_reader("parquet", tmp_path / "t.parquet"))
    assert rejected == {}
    item = items["t.parquet#00000000"]
    assert (item.image, item.label, item.caption) == (picture(), "dog", "a dog on grass")


def test_parquet_with_paths_keys_and_named_columns(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(picture())
    (tmp_path.parent / "outside.png").write_bytes(picture())
    paths = [
        "images/a.png",
        "../outside.png",
        "/etc/passwd",
        "gone.png",
        "https://example.org/x.png",
        None,
        "images/a.png",
    ]
    columns = {"where": paths, "words": [f"row {row}" for row in range(6)] + [None], "nr": list(range(7))}
    path = parquet(tmp_path / "t.parquet", columns)
    options = {"image_column": "where", "caption_column": "words", "key_column": "nr"}
    items, rejected = parted(open_reader("parquet", path, **options))
    assert {name: item.image for name, item in items.items()} == {"0": picture()}
    assert rejected == {
        "1": "unsafe path",
        "2": "unsafe path",
        "3": "unreadable file",
        "4": "image only by address",
        "5": "caption without an image",
        "6": "image without a caption",
    }


def test_a_damaged_table_among_others(tmp_path: Path) -> None:
    whole = parquet(tmp_path / "a.parquet", {"image": [picture()], "text": ["one"]})
    (tmp_path / "b.parquet").write_bytes(whole.read_bytes()[:-20])
    (tmp_path / "c.parquet").write_bytes(b"")
    parquet(tmp_path / "d.parquet", {"picture": [picture()], "text": ["one"]})
    parquet(tmp_path / "e.parquet", {"image": [picture()], "words": ["one"]})
    parquet(tmp_path / "f.parquet", {"image": [1.5], "text": ["one"]})
    big = parquet(
        tmp_path / "g.parquet",
        {"image": [noise(row).tobytes() for row in range(30)], "text": [f"row {row}" for row in range(30)]},
        row_group_size=10,
        compression="zstd",
        write_page_checksum=True,
        use_dictionary=False,
    )
    group = pq.ParquetFile(big).metadata.row_group(1).column(0)
    content = bytearray(big.read_bytes())
    middle = group.data_page_offset + group.total_compressed_size // 2
    content[middle : middle + 20] = bytes(20)
    big.write_bytes(content)
    items, rejected = parted(open_reader("auto", tmp_path))
    assert [name for name in items if name.startswith("a.")] == ["a.parquet#00000000"]
    assert sorted(items)[1:] == [f"g.parquet#{row:08d}" for row in (*range(10), *range(20, 30))]
    assert rejected == {
        "b.parquet": "corrupt parquet file",
        "c.parquet": "corrupt parquet file",
        "d.parquet": "no column of images",
        "e.parquet": "no column of captions",
        "f.parquet": "no column of images",
        "g.parquet": "corrupt parquet file",
    }


def test_a_table_that_is_a_bomb_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag_diffusion.readers.table._LARGE", 1 << 20)
    parquet(tmp_path / "t.parquet", {"image": [bytes(2 << 20)], "text": ["x"]}, compression="zstd")
    assert (tmp_path / "t.parquet").stat().st_size < 5_000
    items, rejected = parted(open_reader("parquet", tmp_path / "t.parquet"))
    assert (items, rejected) == ({}, {"t.parquet": "decompression bomb"})


def test_a_row_that_is_no_text_is_a_rejection_and_the_next_is_read(tmp_path: Path) -> None:
    texts = pa.array([b"one", b"\xff\xfe", b"three"]).view(pa.string())
    path = parquet(tmp_path / "t.parquet", {"image": [picture()] * 3, "text": texts})
    items, rejected = parted(open_reader("parquet", path))
    assert [item.caption for item in items.values()] == ["one", "three"]
    assert rejected == {"t.parquet#00000001": "unreadable row"}


def test_a_key_that_occurs_twice_is_a_rejection(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", {"image": [picture()] * 3, "text": ["x"] * 3, "id": ["a", "b", "a"]})
    items, rejected = parted(reader for reader in open_reader("parquet", path) if getattr(reader, "name", "") != "a")
    assert sorted(items) == ["b"]
    assert rejected == {"a": "named twice"}
