"""Images drawn on the spot, as files of any format."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rag_diffusion.readers.records import Item, Rejection
from tests.tiny import draw

DRAWING = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><circle cx="4" cy="4" r="3" fill="red"/>'
    b'<circle cx="6" cy="6" r="1.5" stroke="blue"/></svg>'
)


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def picture(number: int = 0, form: str = "PNG") -> bytes:
    shape = ("circle", "square", "triangle", "cross")[number % 4]
    return encoded(draw(shape, "red", number % 7), form)


def noise(seed: int, height: int = 48, width: int = 64, bands: int = 3) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, bands), dtype=np.uint8)
    return Image.fromarray(pixels[..., 0] if bands == 1 else pixels)


def clip(frames: int = 5) -> list[Image.Image]:
    """Frames that differ by their grey."""
    return [Image.new("RGB", (20, 10), (40 * number, 40 * number, 40 * number)) for number in range(frames)]


def write_jsonl(path: Path, rows: Iterable[object]) -> None:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")


def parted(read: Iterable[Item | Rejection]) -> tuple[dict[str, Item], dict[str, str]]:
    """Items by name, and kinds of rejections by what was rejected."""
    items: dict[str, Item] = {}
    rejected: dict[str, str] = {}
    for one in read:
        if isinstance(one, Rejection):
            assert one.what not in rejected
            rejected[one.what] = one.kind
        else:
            assert one.name not in items
            items[one.name] = one
    return items, rejected


def tar_of(path: Path, members: Mapping[str, bytes] | list[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in members.items() if isinstance(members, Mapping) else members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def sample(number: int) -> dict[str, bytes]:
    fields = {"caption": f"json {number}", "url": f"https://example.org/{number}", "license": "MIT"}
    return {
        f"{number:06d}.png": picture(number),
        f"{number:06d}.txt": f"caption {number}".encode(),
        f"{number:06d}.json": json.dumps(fields).encode(),
    }


def parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


def zip_of(path: Path, members: dict[str, bytes], **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def animated(form: str, options: dict[str, Any], frames: int = 5) -> bytes:
    first, *rest = clip(frames)
    return encoded(first, form, save_all=True, append_images=rest, duration=100, **options)


def mixed() -> list[Item]:
    """Photographs larger than any image size, a drawing, a frame."""
    forms = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
    photos = [
        Item(name=f"{form}.x", image=encoded(noise(number, 150, 200), form), caption=f"a photo, number {number}")
        for number, form in enumerate(forms)
    ]
    drawing = Item(name="drawing.svg", image=DRAWING, caption="a drawing", side=128)
    frame = Item(name="clip#00001", image=encoded(noise(9, 90, 180), "WEBP", lossless=True), caption="a frame", side=99)
    return [*photos, drawing, frame]
