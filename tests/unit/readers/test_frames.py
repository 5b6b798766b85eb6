"""Animated images and videos as captioned frames."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag_diffusion.errors import DataError
from rag_diffusion.readers.forms import open_reader
from rag_diffusion.readers.images import decode
from rag_diffusion.readers.records import Item
from tests.unit.readers.pictures import animated, clip, encoded, parted, picture, write_jsonl

ANIMATED: list[tuple[str, str, dict[str, Any]]] = [
    ("GIF", "gif", {}),
    ("WEBP", "webp", {"lossless": True}),
    ("PNG", "png", {}),
    ("AVIF", "avif", {"quality": 100}),
]


def gray(item: Item) -> int:
    return int(np.asarray(decode(item.image, item.name))[5, 10].mean())


@pytest.mark.parametrize(("form", "suffix", "options"), ANIMATED)
def test_every_frame_of_an_animated_image(form: str, suffix: str, options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / f"dawn.{suffix}"
    path.write_bytes(animated(form, options))
    path.with_suffix(".txt").write_text("a dawn")
    reader = open_reader("auto", path)
    assert reader.form == "video"
    items, rejected = parted(reader)
    assert rejected == {}
    assert list(items) == [f"dawn.{suffix}#{number:05d}" for number in range(5)]
    assert {item.caption for item in items.values()} == {"a dawn"}
    np.testing.assert_allclose([gray(item) for item in items.values()], [0, 40, 80, 120, 160], atol=3)


@pytest.mark.parametrize(("form", "suffix", "options"), ANIMATED)
def test_a_cut_animation_is_never_taken_for_whole(
    form: str, suffix: str, options: dict[str, Any], tmp_path: Path
) -> None:
    content = animated(form, options)
    path = tmp_path / f"dawn.{suffix}"
    for cut in range(1, len(content), max(1, len(content) // 60)):
        path.write_bytes(content[:cut])
        items, rejected = parted(open_reader("video", path, caption="x"))
        assert rejected or ([gray(item) for item in items.values()][-1] >= 157 and len(items) == 5)


def test_an_interval_in_seconds_and_a_caption_by_hand(tmp_path: Path) -> None:
    (tmp_path / "dawn.gif").write_bytes(animated("GIF", {}, 6))
    reader = open_reader("video", tmp_path / "dawn.gif", caption="by hand", interval=0.2)
    items, _ = parted(reader)
    assert [name[-1] for name in items] == ["0", "2", "4"]
    assert {item.caption for item in items.values()} == {"by hand"}


def test_a_folder_of_clips(tmp_path: Path) -> None:
    for name in ("a.gif", "cut.gif", "lonely.gif", "still.gif"):
        (tmp_path / name).write_bytes(animated("GIF", {}))
    (tmp_path / "cut.gif").write_bytes(animated("GIF", {})[:-60])
    (tmp_path / "still.gif").write_bytes(picture(0, "GIF"))
    (tmp_path / "none.gif").write_bytes(b"<html>")
    (tmp_path / "photo.jpg").write_bytes(picture(0, "JPEG"))
    names = ("a.gif", "cut.gif", "still.gif", "none.gif")
    write_jsonl(tmp_path / "metadata.jsonl", [{"file_name": name, "text": name, "label": "dawn"} for name in names])
    items, rejected = parted(open_reader("video", tmp_path))
    assert [name for name in items if name.startswith("a.")] == [f"a.gif#{number:05d}" for number in range(5)]
    assert items["a.gif#00003"].label == "dawn"
    assert "still.gif#00000" in items
    assert rejected == {
        "cut.gif": "truncated clip",
        "none.gif": "corrupt clip",
        "lonely.gif": "image without a caption",
        "photo.jpg": "not a form that is read",
    }


def test_a_clip_without_a_caption_gives_none(tmp_path: Path) -> None:
    (tmp_path / "dawn.gif").write_bytes(animated("GIF", {}))
    assert parted(open_reader("video", tmp_path / "dawn.gif")) == ({}, {"dawn.gif": "image without a caption"})


def test_too_many_frames_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag_diffusion.readers.frames.MAX_FRAMES", 3)
    (tmp_path / "dawn.gif").write_bytes(animated("GIF", {}))
    items, rejected = parted(open_reader("video", tmp_path / "dawn.gif", caption="x"))
    assert len(items) == 3
    assert rejected == {"dawn.gif": "too many frames"}


def test_large_frames_are_whole_and_say_how_large_they_are_to_be(tmp_path: Path) -> None:
    frames = [frame.resize((2000, 1000)) for frame in clip(2)]
    (tmp_path / "dawn.gif").write_bytes(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    items, _ = parted(open_reader("video", tmp_path / "dawn.gif", caption="x"))
    item = items["dawn.gif#00000"]
    assert decode(item.image, "x").size == (2000, 1000)
    assert item.side == 512
    assert np.array_equal(decode(item.image, "x"), frames[0])


def test_a_video_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "a.txt").write_text("a video")
    with pytest.raises(DataError, match=r"expected the package av, .*pip install 'rag-diffusion\[video\]'"):
        open_reader("video", tmp_path / "a.mp4")
    assert parted(open_reader("video", tmp_path)) == ({}, {"a.mp4": "no reader of videos"})


def video(path: Path, seconds: int = 3, rate: int = 10) -> Path:
    av = pytest.importorskip("av", reason="the extra `video` is not installed")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for number in range(seconds * rate):
            pixels = np.full((32, 64, 3), 8 * number, dtype=np.uint8)
            pixels[:, :32] = 0
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_one_frame_a_second_of_a_video(suffix: str, tmp_path: Path) -> None:
    path = video(tmp_path / f"dawn.{suffix}")
    path.with_suffix(".txt").write_text("a dawn")
    reader = open_reader("auto", path)
    assert reader.form == "video"
    items, rejected = parted(reader)
    assert rejected == {}
    assert list(items) == [f"dawn.{suffix}#{number:05d}" for number in (0, 10, 20)]
    shades = [np.asarray(decode(item.image, "x"))[16, 48].mean() for item in items.values()]
    np.testing.assert_allclose(shades, [0, 80, 160], atol=8)
    assert len(parted(open_reader("video", path, interval=0.0))[0]) == 30


def test_a_video_turned_by_its_container_stands_upright(tmp_path: Path) -> None:
    path = video(tmp_path / "dawn.mp4")
    unit, zero, minus = (1 << 16).to_bytes(4, "big"), bytes(4), (0xFFFF0000).to_bytes(4, "big")
    plain = unit + zero + zero + zero + unit + zero
    content = path.read_bytes()
    at = content.index(plain, content.index(b"tkhd"))
    turned = zero + unit + zero + minus + zero + zero  # a phone held upright: show it turned clockwise
    path.write_bytes(content[:at] + turned + content[at + len(turned) :])
    items, _ = parted(open_reader("video", path, caption="x"))
    shown = np.asarray(decode(items["dawn.mp4#00020"].image, "x"), dtype=int)
    assert shown.shape == (64, 32, 3)
    assert shown[8].max() < 60, "the dark left half is turned to the top"
    assert shown[56].min() > 100


def test_damaged_videos_and_playlists_are_rejections(tmp_path: Path) -> None:
    whole = video(tmp_path / "a.mkv").read_bytes()
    (tmp_path / "a.mkv").unlink()
    (tmp_path / "secret.mkv").write_bytes(whole)
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "none.mp4").write_bytes(b"<html>")
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{tmp_path / 'secret.mkv'}\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.mp4").write_text(playlist)
    write_jsonl(
        tmp_path / "metadata.jsonl",
        [{"file_name": name, "text": "x"} for name in ("cut.mkv", "none.mp4", "list.mp4", "secret.mkv")],
    )
    items, rejected = parted(open_reader("video", tmp_path))
    assert rejected["cut.mkv"] in ("truncated clip", "corrupt clip")
    assert rejected["none.mp4"] == "corrupt clip"
    assert rejected["list.mp4"] == "corrupt clip"
    assert len([name for name in items if name.startswith("secret")]) == 3
    assert not [name for name in items if name.startswith(("none", "list"))]
