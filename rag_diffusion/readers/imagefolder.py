"""A folder of images, captioned by metadata.jsonl or by text files beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from rag_diffusion.errors import DataError
from rag_diffusion.readers.captioned import (
    NO_CAPTION,
    CaptionedFile,
    captioned_rows,
    folder_fingerprint,
    has_files,
    sidecar_rows,
)
from rag_diffusion.readers.fields import make_item
from rag_diffusion.readers.images import MAX_BYTES
from rag_diffusion.readers.records import Item, Rejection

_CAMERAS = frozenset(
    {"img", "image", "dsc", "dscn", "dscf", "pxl", "mvimg", "photo", "pict", "cimg", "screenshot", "wa"}
)


class FolderReader:
    """Images of a folder and of those below it, by name.

    Args:
        path: the folder.
        sidecars: captions lie in text files beside the images, whether or not there is a metadata.jsonl.
        names: an image without a caption gets one from its own name and those of its folders; the innermost folder
            is its label. Names of cameras and mere numbers say nothing.

    Raises:
        DataError: no such folder, or no image in it.
    """

    def __init__(self, path: Path, *, sidecars: bool = False, names: bool = False) -> None:
        if not path.is_dir() or not has_files(path):
            got = "no image in it" if path.is_dir() else "none"
            raise DataError(f"{path}: expected a folder of images, got {got}; name another folder")
        self._path, self._names = path, names
        self._read = sidecar_rows if sidecars else captioned_rows

    def __iter__(self) -> Iterator[Item | Rejection]:
        return self.unread(0)

    def fingerprint(self) -> str:
        """See `folder_fingerprint`."""
        return folder_fingerprint(self._path)

    def unread(self, count: int) -> Iterator[Item | Rejection]:
        """All items; the first `count` have no image, for it is not read."""
        for number, row in enumerate(self._read(self._path)):
            yield self._item(row, read=number >= count)

    def _item(self, row: CaptionedFile, *, read: bool) -> Item | Rejection:
        if self._names and row.problem.startswith(NO_CAPTION):
            row = _named(row)
        if row.problem:
            return Rejection(what=row.name, reason=row.problem)
        try:
            content = read_image(self._path / row.name) if read else b""
        except DataError as error:
            return Rejection(what=row.name, reason=str(error))
        return make_item(row.name, content, row.caption, row.fields)


def _named(row: CaptionedFile) -> CaptionedFile:
    """A row captioned by its name, as it was where the name says nothing."""
    path = PurePosixPath(row.name)
    folders = [words for words in map(_words, path.parts[:-1]) if words]
    caption = ", ".join(words for words in (_words(path.stem), *reversed(folders)) if words)
    if not caption:
        return replace(row, problem=f"{NO_CAPTION}: no text file of the same name, and the name itself says nothing")
    return replace(row, caption=caption, fields={"label": (folders or [""])[-1]}, problem="")


def _words(name: str) -> str:
    """`red_car-02` -> `red car`; `IMG_2041` says nothing."""
    words = [word for word in re.split(r"[\W_]+", name) if word and not any(map(str.isdigit, word))]
    return " ".join(word for word in words if word.lower() not in _CAMERAS)


def read_image(path: Path) -> bytes:
    """Bytes of the image file at `path`.

    Raises:
        DataError: it cannot be read, or is too large; the reason stands before the colon.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"unreadable file: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise DataError(f"file too large: more than {MAX_BYTES} bytes")
    return content
