"""COCO captions: a JSON file of images and annotations beside folders of images; one item a caption.

Source: Chen et al., "Microsoft COCO Captions: Data Collection and Evaluation Server" (2015).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any

from rag_diffusion.errors import DataError
from rag_diffusion.readers.fields import make_item, unsafe_path
from rag_diffusion.readers.imagefolder import read_image
from rag_diffusion.readers.json_stream import array_elements
from rag_diffusion.readers.records import Item, Rejection

_TABLES = """
PRAGMA journal_mode = OFF; PRAGMA cache_size = -4096;
CREATE TABLE images (number INTEGER PRIMARY KEY, id TEXT UNIQUE, file TEXT, licence TEXT, url TEXT);
CREATE TABLE captions (number INTEGER PRIMARY KEY, image TEXT, id TEXT, caption TEXT);
BEGIN;
"""
_JOINED = """
SELECT images.file, images.licence, images.url, captions.id, captions.caption
FROM images LEFT JOIN captions ON captions.image = images.id ORDER BY images.number, captions.number
"""
_LOST = "SELECT id, image FROM captions WHERE image NOT IN (SELECT id FROM images) ORDER BY number"


class CocoReader:
    """Captions of one annotation file, in the order of its images; items are named `<image file>#<annotation id>`.

    Args:
        path: the JSON file, or a folder that holds `captions*.json`, itself or in `annotations`.
        images: folder of the images; looked for beside the JSON file where it is None.

    Raises:
        DataError: no annotation file, or several.
    """

    def __init__(self, path: Path, *, images: Path | None = None) -> None:
        self._json = annotation_file(path) if path.is_dir() else path
        if not self._json.is_file():
            raise DataError(f"{path}: expected COCO captions (*.json), got no file; name another one")
        part = self._json.stem.removeprefix("captions_")
        above = self._json.parent.parent
        beside = [self._json.parent, self._json.parent / "images", above / part, above / "images" / part]
        self._folders = [images] if images else [*beside, self._json.parent / part, above / "images"]

    def __iter__(self) -> Iterator[Item | Rejection]:
        with closing(sqlite3.connect("", isolation_level=None, check_same_thread=False)) as tables:
            tables.executescript(_TABLES)
            try:
                yield from self._read(tables)
            except (ValueError, OSError) as error:
                yield Rejection(what=self._json.name, reason=f"corrupt JSON: {error}; nothing of it was taken")
                return
            tables.execute("CREATE INDEX by_image ON captions (image, number)")
            yield from self._items(tables)
            for annotation, image in tables.execute(_LOST):
                what = f"{self._json.name}#{annotation}"
                yield Rejection(what=what, reason=f"caption without an image: no image has the id {image}")

    def _read(self, tables: sqlite3.Connection) -> Iterator[Rejection]:
        licences: dict[str, str] = {}
        with self._json.open(encoding="utf-8-sig") as file:
            for number, (key, element) in enumerate(array_elements(file)):
                try:
                    _store(tables, licences, key, element)
                except (KeyError, TypeError, AttributeError) as error:
                    what = f"{self._json.name}:{key}[{number}]"
                    yield Rejection(what=what, reason=f"not a COCO element: {type(error).__name__} {error}")
                except sqlite3.IntegrityError:
                    yield Rejection(what=str(element["file_name"]), reason=f"image named twice: id {element['id']}")
        tables.executemany("UPDATE images SET licence = ? WHERE licence = ?", ((b, a) for a, b in licences.items()))

    def _items(self, tables: sqlite3.Connection) -> Iterator[Item | Rejection]:
        for file, rows in groupby(tables.execute(_JOINED), key=lambda row: str(row[0])):
            try:
                content = self._content(file)
            except DataError as error:
                yield Rejection(what=file, reason=str(error))
                continue
            for _, licence, url, annotation, caption in rows:
                if annotation is None:
                    yield Rejection(what=file, reason="image without a caption: no annotation names it")
                else:
                    yield make_item(f"{file}#{annotation}", content, caption, {"licence": licence, "url": url})

    def _content(self, name: str) -> bytes:
        if unsafe := unsafe_path(name):
            raise DataError(f"unsafe path: {unsafe}")
        for folder in self._folders:
            if (folder / name).is_file():
                return read_image(folder / name)
        raise DataError(f"caption without an image: no such file in {', '.join(path.name for path in self._folders)}")


def annotation_file(folder: Path) -> Path:
    """The one file of COCO captions in a `folder`.

    Raises:
        DataError: there is none, or more than one.
    """
    for pattern in ("captions*.json", "annotations/captions*.json", "*.json"):
        paths = sorted(folder.glob(pattern))
        if len(paths) == 1:
            return paths[0]
        if paths:
            names = ", ".join(path.name for path in paths[:5])
            raise DataError(
                f"{folder}: expected one file of COCO captions, got {len(paths)}: {names}; name one of them"
            )
    raise DataError(f"{folder}: expected COCO captions (captions*.json), got none; name another folder")


def _store(tables: sqlite3.Connection, licences: dict[str, str], key: str, element: dict[str, Any]) -> None:
    """Put one element of the file where it belongs; other arrays are passed over."""
    if key == "images":
        url = element.get("coco_url") or element.get("flickr_url") or ""
        row = (_text(element["id"]), _text(element["file_name"]), _text(element.get("license", "")), _text(url))
        tables.execute("INSERT INTO images (id, file, licence, url) VALUES (?, ?, ?, ?)", row)
    elif key == "annotations":
        said = (_text(element["image_id"]), _text(element["id"]), _text(element["caption"]))
        tables.execute("INSERT INTO captions (image, id, caption) VALUES (?, ?, ?)", said)
    elif key == "licenses" and len(licences) < 1000:
        licences[_text(element["id"])] = _text(element["name"])


def _text(value: object) -> str:
    """A string that SQLite can keep, so without lone surrogates."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode("utf-8", "replace").decode()
