"""Images and captions that anybody may have made: what is taken, as what, and why others are not."""

from __future__ import annotations

import io
import struct
import unicodedata
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rag_diffusion.errors import DataError
from rag_diffusion.readers.checked import (
    MAX_CAPTION,
    CaptionError,
    checked_caption,
    checked_image,
    checked_name,
    to_pair,
)
from rag_diffusion.readers.images import MAX_BYTES, ImageError, decode, on_white, to_square
from rag_diffusion.readers.records import Item, Rejection
from rag_diffusion.types import Pair
from tests.unit.readers.pictures import clip, encoded, noise, picture

FORMATS: list[tuple[str, dict[str, Any]]] = [
    ("PNG", {}),
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("GIF", {}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("AVIF", {}),
]


def kind(content: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        checked_image(content, "x", 32)
    return caught.value.reason.split(":")[0]


def item(**changes: Any) -> Item:
    return replace(Item(name="a.png", image=picture(), caption="a red circle"), **changes)


def pair(**changes: Any) -> Pair:
    made = to_pair(item(**changes), data_set="mine", size=32, licence="CC0-1.0", attribution="me")
    assert isinstance(made, Pair), made
    return made


def rejection(**changes: Any) -> str:
    made = to_pair(item(**changes), data_set="mine", size=32, licence="CC0-1.0", attribution="me")
    assert isinstance(made, Rejection)
    return made.kind


@pytest.mark.parametrize(("form", "options"), FORMATS)
def test_every_format_is_read(form: str, options: dict[str, Any]) -> None:
    flat = Image.new("RGB", (40, 20), (200, 30, 60))
    square = np.asarray(checked_image(encoded(flat, form, **options), "x", 40), dtype=int)
    assert square.shape == (40, 40, 3)
    assert (square[:10] == 255).all()
    assert (square[30:] == 255).all()
    assert np.abs(square[12:28] - (200, 30, 60)).max() <= 6


@pytest.mark.parametrize(("form", "options"), FORMATS)
def test_a_truncated_file_is_never_taken_half(form: str, options: dict[str, Any]) -> None:
    content = encoded(noise(1), form, **options)
    whole = np.asarray(decode(content, "x"))
    cuts = [*range(0, len(content), len(content) // 40), len(content) - 1]
    for cut in cuts:
        try:
            pixels, reason = np.asarray(decode(content[:cut], "x")), ""
        except ImageError as error:
            pixels, reason = whole, error.reason
        np.testing.assert_array_equal(pixels, whole)
        if cut < 0.9 * len(content):
            assert reason.startswith(("truncated image", "corrupt image", "not an image", "empty file")), reason
        assert "0x" not in reason  # an address would make the manifest differ from run to run


@pytest.mark.parametrize(("form", "options"), FORMATS)
def test_flipped_bits_never_end_the_read(form: str, options: dict[str, Any]) -> None:
    content = encoded(noise(2), form, **options)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(25):
        broken = bytearray(content)
        for at in rng.integers(0, len(broken), 4):
            broken[at] ^= 1 << rng.integers(0, 8)
        try:
            assert checked_image(bytes(broken), "x", 32).size == (32, 32)
        except ImageError:
            refused += 1
    assert refused > 0 or form in ("BMP", "TIFF"), "formats with headers and checks see some of it"


def test_what_is_no_image_is_told_by_its_kind() -> None:
    assert kind(b"") == "empty file"
    assert kind(b"<!doctype html><html>not found</html>") == "not an image"
    assert kind(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") == "not an image"
    assert kind(b"\x89PNG\r\n\x1a\n" + bytes(40)) == "corrupt image"
    assert kind(picture() + bytes(MAX_BYTES)) == "file too large"


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    for side in (9000, 12000, 60000):  # beyond our limit, beyond Pillow's warning, beyond Pillow's error
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1 << 16)))
        assert kind(bomb) == "decompression bomb"


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "AVIF", "TIFF"])
def test_an_animated_image_is_no_picture(form: str) -> None:
    first, *rest = clip()
    assert kind(encoded(first, form, save_all=True, append_images=rest)) == "animated image"


def test_a_camera_photo_with_a_preview_is_one_picture() -> None:
    photo = Image.new("RGB", (40, 40), (10, 200, 10))
    content = encoded(photo, "MPO", save_all=True, append_images=[photo.resize((8, 8))])
    assert Image.open(io.BytesIO(content)).format == "MPO"
    assert np.abs(np.asarray(checked_image(content, "x", 40), dtype=int) - (10, 200, 10)).max() <= 4


def test_cmyk_is_converted() -> None:
    content = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
    red = np.asarray(checked_image(content, "x", 16))[8, 8]
    assert red[0] > 240
    assert red[1:].max() < 15


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_gray_keeps_its_brightness(form: str) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    pixels = np.asarray(checked_image(encoded(Image.fromarray(ramp), form), "x", 16))
    np.testing.assert_array_equal(pixels[..., 0], ramp >> 8)


def test_32_bit_pixels_are_taken_only_where_their_white_is_known() -> None:
    unit = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)
    assert np.asarray(on_white(Image.fromarray(unit)))[0, :, 0].tolist() == [0, 128, 255]
    assert np.asarray(on_white(Image.fromarray(np.array([[0, 65535]], dtype=np.int32))))[0, :, 0].tolist() == [0, 255]
    with pytest.raises(DataError, match="32-bit pixels from -5 to 1000"):
        on_white(Image.fromarray(np.array([[-5.0, 1000.0]], dtype=np.float32)))
    assert kind(encoded(Image.fromarray(np.array([[-5.0, 1000.0]], dtype=np.float32)), "TIFF")) == "corrupt image"


def test_palettes_and_transparency_lie_on_white() -> None:
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([0, 0, 0, 250, 100, 50])
    assert checked_image(encoded(palette), "x", 16).getpixel((8, 8)) == (250, 100, 50)
    assert checked_image(encoded(palette, transparency=1), "x", 16).getpixel((8, 8)) == (255, 255, 255)
    half = Image.new("RGBA", (16, 16), (0, 0, 0, 128))
    assert checked_image(encoded(half), "x", 16).getpixel((8, 8)) == (127, 127, 127)
    gray = Image.new("LA", (16, 16), (0, 0))
    assert checked_image(encoded(gray), "x", 16).getpixel((8, 8)) == (255, 255, 255)
    assert checked_image(encoded(Image.new("1", (16, 16), 1)), "x", 16).getpixel((8, 8)) == (255, 255, 255)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_stands_upright_by_its_exif_orientation(form: str, orientation: int) -> None:
    upright = Image.new("RGB", (32, 48), "white")
    upright.paste((255, 0, 0), (0, 0, 16, 16))
    upright.paste((0, 0, 255), (16, 0, 32, 16))
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(stored, form, exif=exif, **({"quality": 95} if form != "PNG" else {}))
    shown = np.asarray(checked_image(content, "x", 48), dtype=int)
    assert shown[8, 16, 0] > 200
    assert shown[8, 16, 2] < 80
    assert shown[8, 32, 2] > 200
    assert shown[8, 32, 0] < 80
    assert shown[40].min() > 200


def test_damaged_exif_turns_nothing() -> None:
    content = encoded(Image.new("RGB", (32, 16), (200, 0, 0)), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert checked_image(content, "x", 32).getpixel((16, 2)) == (255, 255, 255)


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (2000, 300), (130, 130), (1, 900)])
def test_a_jpeg_is_decoded_at_twice_its_size_in_the_square_or_more_and_looks_the_same(size: tuple[int, int]) -> None:
    tiles = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    photo = Image.fromarray(tiles).resize(size, Image.Resampling.BICUBIC)
    content = encoded(photo, "JPEG", quality=95)
    wanted = [max(1, 128 * side // max(size)) for side in size]
    smaller = decode(content, "x", side=64).size
    assert all(small >= want for small, want in zip(smaller, wanted, strict=True))
    assert smaller == size or max(smaller) < 4 * 64
    seen, whole = (np.asarray(to_square(image, 64), np.int64) for image in (decode(content, "x", 64), photo))
    assert np.abs(seen - whole).mean() < 2


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("  a red\tcircle \r\n on white ", "a red circle on white"),
        ("null\0byte and \x1b[31mescape\x7f", "null byte and [31mescape"),
        ("קרוקודיל ירוק", "קרוקודיל ירוק"),
        ("e\u0301te\u0301 \u2067\u0627\u062e\u0636\u0631\u2069", "été \u2067\u0627\u062e\u0636\u0631\u2069"),
        ("👩\u200d👧 میخواهم\u200cها", "👩\u200d👧 میخواهم\u200cها"),
        ("lone \ud800 surrogate", "lone ? surrogate"),
        ("!?", "!?"),
    ],
)
def test_captions_are_cleaned_and_letters_stay(text: str, caption: str) -> None:
    cleaned, _ = checked_caption(text)
    assert cleaned == caption
    assert checked_caption(cleaned) == (caption, "")
    cleaned.encode("utf-8")


def test_a_cleaned_caption_says_what_was_replaced() -> None:
    assert checked_caption("fine\nin two lines") == ("fine in two lines", "")
    assert checked_caption("a\0b\x01 \udc80")[1] == "replaced 2 control characters and 1 lone surrogates"


@pytest.mark.parametrize("text", ["", "  \n", "\0\0", "\u200b\u200e", "\x1b"])
def test_a_caption_of_nothing_is_refused(text: str) -> None:
    with pytest.raises(CaptionError, match="^empty caption: "):
        checked_caption(text)


def test_a_caption_of_100_kilobytes_is_refused_whole_and_at_once() -> None:
    for text in ("word " * 20_000, "x" * 102_400, "a" + "\u0301\u0323" * 50_000, "\U0010ffff" * 2_000_000):
        with pytest.raises(CaptionError, match="^caption too long: "):
            checked_caption(text)
    assert checked_caption("x" * MAX_CAPTION)[0] == "x" * MAX_CAPTION
    marks = "a" + "\u0301\u0323" * ((MAX_CAPTION - 1) // 2)
    assert checked_caption(marks)[0] == unicodedata.normalize("NFC", marks)
    assert checked_caption("word" + " " * 102_400) == ("word", "")


def test_names_are_made_printable_and_stay_distinct() -> None:
    assert checked_name("sub/a b.png") == "sub/a b.png"
    assert checked_name("été/猫.png") == "été/猫.png"
    assert checked_name("caf\udce9\n.png") == "caf%E9%0A.png"
    for name in ("", "x" * 1025):
        with pytest.raises(DataError, match="^bad name: "):
            checked_name(name)


def test_an_item_becomes_a_pair() -> None:
    made = pair(label="circle", title="red circle", split="val", style="flat", licence="MIT")
    assert (made.pair_id, made.source, made.entity, made.family, made.category) == (
        "mine/a.png",
        "mine",
        "circle",
        "circle",
        "circle",
    )
    assert (made.split, made.style, made.title, made.licence, made.attribution) == (
        "validation",
        "flat",
        "red circle",
        "MIT",
        "me",
    )
    assert decode(made.image, "x").size == (32, 32)
    assert made.original == item().image


def test_an_item_without_labels_stands_for_itself() -> None:
    made = pair()
    assert (made.entity, made.family, made.category, made.style) == ("mine/a.png", "mine/a.png", "default", "default")
    assert (made.split, made.title, made.licence) == ("train", "a red circle", "CC0-1.0")


def test_equal_pixels_share_a_duplicate_group() -> None:
    pixels = Image.open(io.BytesIO(picture(1)))
    same = pair(name="b.bmp", image=encoded(pixels, "BMP"))
    assert same.duplicate_group == pair(name="b.png", image=picture(1)).duplicate_group
    assert same.duplicate_group != pair(name="c.png", image=picture(2)).duplicate_group


def test_the_same_item_gives_the_same_bytes() -> None:
    assert pair() == pair()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image": b"x"}, "not an image"),
        ({"image": picture()[:300]}, "truncated image"),
        ({"caption": "\0"}, "empty caption"),
        ({"caption": "long " * 20_000}, "caption too long"),
        ({"label": "x" * 2000}, "bad label"),
        ({"licence": "\0"}, "bad licence"),
        ({"split": "tomorrow"}, "unknown split"),
        ({"name": "n" * 2000}, "bad name"),
    ],
)
def test_a_bad_item_is_a_rejection_with_its_kind(changes: dict[str, Any], reason: str) -> None:
    assert rejection(**changes) == reason
