"""What form lies at a path, and what tells so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path, PurePath

from rag_diffusion.errors import DataError
from rag_diffusion.readers.archive import ARCHIVE_SUFFIXES
from rag_diffusion.readers.captioned import IMAGE_SUFFIXES, METADATA, VIDEO_SUFFIXES
from rag_diffusion.readers.frames import ANIMATED_SUFFIXES, is_animated
from rag_diffusion.readers.tar_stream import TAR_SUFFIXES, tar_members

_LOOKS_AT = 10_000  # files of a folder
_MEMBERS = 64  # of a tar archive
_FLAT = ("coco", "iconify")  # whose files lie where they are looked for; other forms are found at any depth


def guess_form(path: Path) -> tuple[str, Path, str]:
    """Guess the form of a file or folder.

    Args:
        path: a folder that holds nothing but one folder has the form of that one.

    Returns:
        One of `FORMS`, the path to open, and what tells so.

    Raises:
        DataError: nothing there has a form that is read.
    """
    if path.is_file():
        form, why = _form_of_file(path)
        return form, path, why
    if not path.is_dir():
        raise DataError(f"{path}: expected a file or a folder, got none; name another path")
    inner = path
    while len(inside := list(islice(_visible(inner), 2))) == 1 and inside[0].is_dir():
        inner = Path(inside[0].path)
    form, why = _form_of_folder(inner)
    return form, inner if form in _FLAT else path, why


def _form_of_file(path: Path) -> tuple[str, str]:
    name, suffix = path.name.lower(), path.suffix.lower()
    if name.endswith(TAR_SUFFIXES):
        return _form_of_tar(path)
    if name.endswith(ARCHIVE_SUFFIXES):
        return "archive", "a zip"
    if suffix == ".parquet":
        return "parquet", "its name ends so"
    if suffix == ".json":
        return "coco", "one JSON file"
    if suffix in VIDEO_SUFFIXES:
        return "video", "its name ends as a video's"
    if is_animated(path):
        return "video", "an image of several frames"
    known = ".parquet, .json, a video, an animated image"
    raise DataError(f"{path}: expected a folder, {', '.join(ARCHIVE_SUFFIXES)}, {known}, got none of them; use --form")


def _form_of_tar(path: Path) -> tuple[str, str]:
    try:
        names = [member.name for member in islice(tar_members(path), _MEMBERS) if member.kind == "file"]
    except DataError:
        return "archive", "a tar that is damaged"
    if "package/icons.json" in names:
        return "iconify", "it holds package/icons.json"
    if any(name.startswith("package/json/") and name.endswith(".json") for name in names):
        return "iconify", "it holds package/json/*.json, as the package of all sets"
    for name in names:
        if name.rpartition("/")[2] == METADATA or name.endswith(".parquet"):
            return "archive", f"it holds {name}"
    stems = [name.rpartition("/")[0] + "/" + name.rpartition("/")[2].partition(".")[0] for name in names]
    if any(a == b for a, b in pairwise(stems)):
        return "webdataset", "files of one name follow each other"
    return "archive", "a tar whose files are in no order of samples"


def _form_of_folder(path: Path) -> tuple[str, str]:
    for package in (path, path / "package"):
        if (package / "icons.json").is_file() and (package / "info.json").is_file():
            return "iconify", "it holds icons.json and info.json"
        if (package / "collections.json").is_file() and (package / "json").is_dir():
            return "iconify", "it holds collections.json and json/, as the package of all sets"
    example: dict[str, str] = {}  # form -> a file that speaks for it
    images, texts = set[str](), set[str]()
    for name in islice(_names(path), _LOOKS_AT):
        relative, suffix = PurePath(name), PurePath(name).suffix.lower()
        if suffix in (".txt", ".json"):
            texts.add(str(relative.with_suffix("")))
        elif suffix in IMAGE_SUFFIXES:
            images.add(str(relative.with_suffix("")))
        for form in _forms_of(name):
            example[form] = min(name, example.get(form, name))
    if "photo" not in example and "image_text" in example and is_animated(path / example["image_text"]):
        return "video", f"{example['image_text']} has several frames"
    if not images.isdisjoint(texts):
        example.pop("parquet", None)  # a list of what lies there, as img2dataset writes one
    if "image_text" in example and images.isdisjoint(texts):
        example["photos"] = f"{example.pop('image_text')} and no text file: captions are made of names"
    for form in ("imagefolder", "webdataset", "arrow", "parquet", "coco", "image_text", "photos", "video"):
        if form in example:
            return form, f"it holds {example[form]}"
    raise DataError(
        f"{path}: expected {METADATA}, *.tar, *.parquet, *.arrow, captions*.json, images or videos in it, got none of "
        "them; name another folder"
    )


def _forms_of(name: str) -> Iterator[str]:
    """Forms that a file name speaks for; `photo` chooses among them."""
    base, suffix = PurePath(name).name, PurePath(name).suffix.lower()
    if base == METADATA:
        yield "imagefolder"
    elif base.endswith(TAR_SUFFIXES):
        yield "webdataset"
    elif suffix == ".parquet":
        yield "parquet"
    elif suffix == ".arrow":
        yield "arrow"
    elif base.startswith("captions") and suffix == ".json":
        yield "coco"
    elif suffix in IMAGE_SUFFIXES:
        yield "image_text"
        if suffix not in ANIMATED_SUFFIXES:
            yield "photo"
    elif suffix in VIDEO_SUFFIXES:
        yield "video"


def _visible(path: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        yield from (entry for entry in entries if not entry.name.startswith(".") and entry.name != "__MACOSX")


def _names(path: Path) -> Iterator[str]:
    folders = [""]
    while folders:
        prefix = folders.pop()
        for entry in _visible(path / prefix):
            if entry.is_dir(follow_symlinks=False):
                folders.append(f"{prefix}{entry.name}/")
            else:
                yield f"{prefix}{entry.name}"
