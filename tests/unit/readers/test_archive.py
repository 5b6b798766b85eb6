"""Uploaded archives: what is inside is read, and nothing gets out of its folder or beyond its limits."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest

from rag_diffusion.readers import archive as archive_module
from rag_diffusion.readers.forms import ArchiveLimits, open_reader
from tests.unit.readers.pictures import noise, parquet, parted, picture, tar_of, zip_of

PHOTOS = {
    "photos/a.png": picture(0),
    "photos/a.txt": b"a circle",
    "photos/sub/b.png": picture(1),
    "photos/sub/b.txt": b"b",
}


def read(path: Path, **options: Any) -> tuple[dict[str, Any], dict[str, str]]:
    return parted(open_reader("archive", path, scratch=path.parent, **options))


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path: Path) -> Any:
    yield
    assert not list(tmp_path.glob("unpacked-*"))


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz", "tar.xz"])
def test_an_archive_of_images_and_texts(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"mine.{suffix}"
    if suffix == "zip":
        zip_of(path, PHOTOS)
    else:
        tar_of(path, PHOTOS, {"tar": "w", "tar.gz": "w:gz", "tar.xz": "w:xz"}[suffix])
    items, rejected = read(path)
    assert rejected == {}
    assert {name: item.caption for name, item in items.items()} == {"photos/a.png": "a circle", "photos/sub/b.png": "b"}
    assert items["photos/a.png"].image == picture(0)


def test_other_forms_inside(tmp_path: Path) -> None:
    rows = b'{"file_name": "a.png", "text": "by metadata"}\n'
    items, _ = read(zip_of(tmp_path / "m.zip", {"metadata.jsonl": rows, "a.png": picture()}))
    assert items["a.png"].caption == "by metadata"
    table = parquet(tmp_path / "t.parquet", {"image": [picture()], "text": ["by table"]}).read_bytes()
    items, _ = read(zip_of(tmp_path / "p.zip", {"data/t.parquet": table}))
    assert items["data/t.parquet#00000000"].caption == "by table"
    sample = {"0001.png": picture(), "0001.json": b'{"caption": "by json", "license": "MIT"}'}
    items, _ = read(tar_of(tmp_path / "w.tar", sample))
    assert (items["0001.png"].caption, items["0001.png"].licence) == ("by json", "MIT")


def test_an_archive_is_told_from_a_shard(tmp_path: Path) -> None:
    shard = tar_of(tmp_path / "s.tar", {"1.png": picture(), "1.txt": b"x"})
    assert open_reader("auto", shard).form == "webdataset"
    folder = tar_of(tmp_path / "f.tar", {"x/metadata.jsonl": b"{}", "x/1.png": picture()})
    assert open_reader("auto", folder).form == "archive"
    assert open_reader("auto", zip_of(tmp_path / "z.zip", PHOTOS)).form == "archive"


BAD_NAMES = ["../out.png", "photos/../../out.png", "/tmp/out.png", "C:/out.png", "..\\out.png", "a/\\b.png"]


@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_members_that_lead_out_are_left_out(suffix: str, tmp_path: Path) -> None:
    inner = tmp_path / "in" / "in"
    inner.mkdir(parents=True)
    bad = dict.fromkeys(BAD_NAMES, b"out")
    path = (zip_of if suffix == "zip" else tar_of)(inner / f"x.{suffix}", PHOTOS | bad)
    before = sorted(tmp_path.rglob("*"))
    items, rejected = read(path)
    assert sorted(items) == ["photos/a.png", "photos/sub/b.png"]
    assert len(rejected) == len(bad)
    assert set(rejected.values()) == {"unsafe path"}
    assert sorted(tmp_path.rglob("*")) == before


def test_links_and_devices_in_a_tar_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, kind, target in (
            ("photos/dir", tarfile.SYMTYPE, str(tmp_path)),
            ("photos/c.txt", tarfile.SYMTYPE, str(tmp_path / "secret.txt")),
            ("photos/d.png", tarfile.LNKTYPE, "photos/a.png"),
            ("photos/e.png", tarfile.FIFOTYPE, ""),
            ("photos/f.png", tarfile.BLKTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
        for name, content in (PHOTOS | {"photos/dir/g.png": picture(2), "photos/c.png": picture(2)}).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    items, rejected = read(tmp_path / "x.tar")
    assert sorted(items) == ["photos/a.png", "photos/sub/b.png"]
    assert not (tmp_path / "g.png").exists()
    assert {name: reason for name, reason in rejected.items() if reason == "no regular file"}.keys() == {
        "photos/dir",
        "photos/c.txt",
        "photos/d.png",
        "photos/e.png",
        "photos/f.png",
    }
    assert rejected["photos/c.png"] == rejected["photos/dir/g.png"] == "image without a caption"


def test_links_in_a_zip_are_left_out(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "x.zip", PHOTOS)
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("photos/c.txt")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    items, rejected = read(path)
    assert sorted(items) == ["photos/a.png", "photos/sub/b.png"]
    assert rejected == {"photos/c.txt": "no regular file"}


def test_members_that_clash_or_hide_archives_are_left_out(tmp_path: Path) -> None:
    members = [*PHOTOS.items(), ("photos/a.png", picture(3)), ("photos/a.png/x.png", picture(3))]
    members += [
        ("photos/inner.zip", b"PK"),
        ("photos/inner.tar.gz", b"x"),
        (f"photos/{'n' * 90}/{'n' * 300}.png", b"x"),
    ]
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, content in members:
            with warnings.catch_warnings(action="ignore"):  # that a name occurs twice
                archive.writestr(name, content)
    items, rejected = read(tmp_path / "x.zip")
    assert items["photos/a.png"].image == picture(0)
    assert sorted(rejected.values()) == [
        "archive inside an archive",
        "archive inside an archive",
        "bad name",
        "named twice",
        "named twice",
    ]


def test_a_damaged_member_of_a_zip_is_left_out_and_told(tmp_path: Path) -> None:
    pixels = noise(0).tobytes()
    path = zip_of(tmp_path / "x.zip", {**PHOTOS, "photos/c.png": pixels, "photos/c.txt": b"c"})
    content = bytearray(path.read_bytes())
    at = content.index(pixels[5000:5020]) if pixels[5000:5020] in content else content.index(b"photos/c.png") + 3000
    content[at : at + 8] = bytes(8)
    path.write_bytes(content)
    items, rejected = read(path)
    assert sorted(items) == ["photos/a.png", "photos/sub/b.png"]
    assert rejected == {"photos/c.png": "corrupt member", "photos/c.txt": "caption without an image"}


def test_an_encrypted_member_is_left_out(tmp_path: Path) -> None:
    content = bytearray(
        zip_of(tmp_path / "x.zip", {"a.png": picture(), "b.png": picture(1), "b.txt": b"b"}).read_bytes()
    )
    content[6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "x.zip").write_bytes(content)
    items, rejected = read(tmp_path / "x.zip")
    assert sorted(items) == ["b.png"]
    assert rejected == {"a.png": "corrupt member"}


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz"])
def test_an_archive_that_is_cut_gives_nothing(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{suffix}"
    members = PHOTOS | {"photos/noise.png": noise(0).tobytes()}
    if suffix == "zip":
        zip_of(path, members)
    else:
        tar_of(path, members, "w" if suffix == "tar" else "w:gz")
    whole = path.read_bytes()
    last = len(whole) - 1 if suffix != "tar" else whole.rindex(noise(0).tobytes()[-20:]) + 400
    for cut in (0, 3, 200, 600, len(whole) // 2, last):
        path.write_bytes(whole[:cut])
        items, rejected = read(path)
        assert items == {}, cut
        assert list(rejected) == [path.name]
        assert rejected[path.name] in ("truncated archive", "corrupt archive")


def test_an_archive_of_nothing_that_is_read_says_so(tmp_path: Path) -> None:
    assert read(zip_of(tmp_path / "x.zip", {"README.md": b"x"})) == ({}, {"x.zip": "no form that is read"})
    (tmp_path / "y.zip").write_bytes(b"<html>no archive</html>")
    assert read(tmp_path / "y.zip") == ({}, {"y.zip": "truncated archive"})


@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_too_many_entries_are_refused_as_a_whole(suffix: str, tmp_path: Path) -> None:
    members = {f"{number}.txt": b"" for number in range(200)} | PHOTOS
    path = (zip_of if suffix == "zip" else tar_of)(tmp_path / f"x.{suffix}", members)
    assert read(path, limits=ArchiveLimits(entries=203)) == ({}, {path.name: "too many entries"})
    assert len(read(path, limits=ArchiveLimits(entries=204))[0]) == 2


def million_entries(path: Path) -> None:
    """A zip whose table of contents names a million files, all of them one."""
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 3, 20, 0, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    table = entry * 1_000_000
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 10**6, 10**6, len(table), 0)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(table), 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    path.write_bytes(b"PK\3\4" + table + record + locator + end)


def test_a_million_entries_are_refused_before_they_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    million_entries(tmp_path / "x.zip")
    monkeypatch.setattr(archive_module, "_MAX_DIRECTORY", 1 << 40)
    monkeypatch.setattr(zipfile, "ZipFile", None)  # which would keep them all
    begun = time.monotonic()
    assert read(tmp_path / "x.zip") == ({}, {"x.zip": "too many entries"})
    assert time.monotonic() - begun < 5


def test_a_table_of_contents_beyond_its_limit_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_module, "_MAX_DIRECTORY", 100)
    assert read(zip_of(tmp_path / "x.zip", PHOTOS)) == ({}, {"x.zip": "too many entries"})


def test_a_zip_with_a_comment_and_one_with_bytes_before_it(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in PHOTOS.items():
            archive.writestr(name, content)
        archive.comment = b"made by me"
    assert len(read(path)[0]) == 2
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    assert len(read(path)[0]) == 2


@pytest.mark.parametrize("suffix", ["zip", "tar.gz", "tar.bz2"])
def test_a_bomb_is_stopped_at_its_limit_and_gives_nothing(suffix: str, tmp_path: Path) -> None:
    members = PHOTOS | {f"photos/zeros-{number}.bmp": bytes(1 << 20) for number in range(30)}
    path = tmp_path / f"bomb.{suffix}"
    if suffix == "zip":
        zip_of(path, members)
    else:
        tar_of(path, members, "w:" + suffix[4:])
    assert path.stat().st_size < 1 << 20
    assert read(path, limits=ArchiveLimits(bytes=8 << 20)) == ({}, {path.name: "archive too large"})
    assert len(read(path)[0]) == 2, "what is small when it is unpacked may be packed well"


def test_a_bomb_is_stopped_by_its_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "_FLOOR", 1 << 20)
    path = zip_of(tmp_path / "bomb.zip", {"zeros.bmp": bytes(20 << 20)})
    assert read(path) == ({}, {"bomb.zip": "archive too large"})


def test_members_that_share_their_bytes_are_left_out(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "x.zip", {"a.bmp": bytes(1 << 20)})
    content = path.read_bytes()
    start, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    entry, count = content[start:end], 30
    table = b"".join(entry[:46] + b"%05d" % number for number in range(count))
    assert entry[46:] == b"a.bmp"
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(table), start, 0)
    path.write_bytes(content[:start] + table + tail)
    items, rejected = read(path)
    assert items == {}
    assert rejected.pop("x.zip") == "no form that is read"
    assert list(rejected.values()) == ["corrupt member"] * count


def test_a_comment_that_looks_like_an_end_misleads_nobody(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "x.zip", PHOTOS)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"PK\5\6 a comment" + bytes(500)
    assert read(path) == ({}, {"x.zip": "corrupt archive"})


def test_a_tar_of_huge_claims_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.png")
    info.size = 1 << 40
    (tmp_path / "x.tar").write_bytes(info.tobuf() + bytes(4096))
    assert read(tmp_path / "x.tar") == ({}, {"x.tar": "truncated archive"})


def test_an_unpacked_folder_goes_away_when_nobody_reads_on(tmp_path: Path) -> None:
    reading = iter(open_reader("archive", zip_of(tmp_path / "x.zip", PHOTOS), scratch=tmp_path))
    next(reading)
    assert len(list(tmp_path.glob("unpacked-*"))) == 1
    reading.close()  # type: ignore[attr-defined]
    assert not list(tmp_path.glob("unpacked-*"))
    assert os.listdir(tmp_path) == ["x.zip"]  # noqa: PTH208
