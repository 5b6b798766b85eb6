"""Files with captions in a folder: Hugging Face `imagefolder` with metadata.jsonl, or image.png + image.txt.

Both yield rows one by one and keep no list of the files in memory; names are compared in tables on disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from rag_diffusion.errors import DataError
from rag_diffusion.readers.fields import CAPTIONS, caption_of, no_text
from rag_diffusion.readers.names import NameTable

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif", ".bmp", ".tif", ".tiff", ".svg"})
VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ogv", ".wmv", ".flv"})
# Pictures that nothing here reads: they are told of, where a README is passed over.
OTHER_PICTURES = frozenset(
    {".apng", ".heic", ".heif", ".jxl", ".jp2", ".svgz", ".psd", ".ico", ".eps", ".tga", ".exr"}
    | {".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".raw", ".ppm", ".pgm", ".hdr"}
)
METADATA = "metadata.jsonl"
NO_CAPTION = "image without a caption"  # how such a problem begins
MAX_TEXT_BYTES = 1 << 20  # of one line of metadata.jsonl, of one text file
SETTLED = 2  # seconds; no file system's clock is coarser
_UNREADABLE = "unreadable file: a link to nothing, a linked folder, a device or no permission"
_KEYS = ("text", *CAPTIONS)  # as Hugging Face names it in a metadata.jsonl


@dataclass(frozen=True, kw_only=True)
class CaptionedFile:
    """One file with its caption, or the reason why there is no pair.

    Attributes:
        name: path relative to the folder, or the place of a bad line, e.g. `metadata.jsonl:3`.
        caption: as it stood there; may be empty.
        fields: all that was said of the file besides, by the names used there.
        problem: why there is no pair; empty where there is one.
    """

    name: str
    caption: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


def captioned_rows(folder: Path, suffixes: Collection[str] = IMAGE_SUFFIXES) -> Iterator[CaptionedFile]:
    """Rows of metadata.jsonl where the folder or one below it holds such a file, else of text files beside the images.

    Args:
        folder: may hold more folders; those whose name begins with a dot are passed over, and pictures so named told.
        suffixes: of the files that are to have captions, in lower case.
    """
    metadata = any(Path(name).name == METADATA for name, _ in _walk(folder))
    return metadata_rows(folder, suffixes) if metadata else sidecar_rows(folder, suffixes)


def has_files(folder: Path, suffixes: Collection[str] = IMAGE_SUFFIXES) -> bool:
    """Whether any file of the `suffixes`, in lower case, lies in a `folder` or below it."""
    return any(not problem and _suffix(name) in suffixes for name, problem in _walk(folder))


def folder_fingerprint(folder: Path) -> str:
    """sha256 over path, size and times of content and of state (mtime, ctime) of every file below a `folder`.

    Returns:
        In hex; empty where a file changed less than `SETTLED` seconds ago or cannot be looked at: another change within
        the same tick of the clock would leave size and times as they are.
    """
    total, newest = 0, 0
    for name, problem in _walk(folder):
        if not problem:
            try:
                state = (folder / name).stat()
            except OSError:
                return ""
            problem = f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}"
            newest = max(newest, state.st_ctime_ns)
        digest = hashlib.sha256(f"{name}\0{problem}".encode("utf-8", "surrogateescape")).digest()
        total = (total + int.from_bytes(digest, "big")) % 2**256  # files come in no order
    return f"{total:064x}" if newest < time.time_ns() - SETTLED * 10**9 else ""


def metadata_rows(folder: Path, suffixes: Collection[str] = IMAGE_SUFFIXES) -> Iterator[CaptionedFile]:
    """One row a line of each metadata.jsonl below a `folder` (`file_name`, `text` or `caption`), then files of none.

    Those are the files of the `suffixes`, in lower case, that no line names.
    """
    with NameTable() as files, NameTable() as tables, NameTable() as named:
        yield from _list_files(folder, suffixes, files, tables, METADATA)
        for table in tables:
            base = table.removesuffix(METADATA)
            with (folder / table).open("rb") as lines:
                for number, line in enumerate(_lines(lines), start=1):
                    if line is None or line.strip():
                        yield _metadata_row(line, f"{table}:{number}", base, files, named)
        for name in files:
            if name not in named:
                yield CaptionedFile(name=name, problem=f"{NO_CAPTION}: not in {METADATA}")


def sidecar_rows(folder: Path, suffixes: Collection[str] = IMAGE_SUFFIXES) -> Iterator[CaptionedFile]:
    """One row for each file of the `suffixes` below a `folder`, then one for each text that is of no file.

    The text of `image.png` is image.txt, or a field of image.json, which may say more of it.
    """
    with NameTable() as files, NameTable() as texts, NameTable() as used:
        yield from _list_files(folder, suffixes, files, texts, ".txt")
        for name in files:
            yield _sidecar_row(folder, name, texts, used)
        for name in texts:
            if name.removesuffix(".txt") not in used:
                yield CaptionedFile(name=name, problem=f"caption without an image: {name}")


def parse_object(text: bytes) -> dict[str, Any]:
    """The fields of a JSON object in `text`, which anybody may have written.

    Raises:
        ValueError: no JSON, nested too deep, or no object.
    """
    try:
        fields = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(fields, dict):
        raise ValueError(f"expected an object, got {type(fields).__name__}")
    return fields


def read_text(path: Path) -> bytes:
    """Bytes of the short file at `path`.

    Raises:
        DataError: it cannot be read, or is longer than `MAX_TEXT_BYTES`.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise DataError(f"unreadable file: {path.name}: {error.strerror}") from None
    if len(content) > MAX_TEXT_BYTES:
        raise DataError(f"text too long: {path.name} holds more than {MAX_TEXT_BYTES} bytes")
    return content


def _walk(folder: Path, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Relative names of all files, in no order, and what keeps each from being opened, empty where nothing does."""
    folders, base = [prefix], folder.resolve()
    while folders:
        prefix = folders.pop()
        try:
            entries = os.scandir(folder / prefix)
        except OSError:
            yield prefix, _UNREADABLE
            continue
        with entries:
            for entry in entries:
                name = f"{prefix}{entry.name}"
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    if _suffix(name) in IMAGE_SUFFIXES and not entry.name.startswith("._"):
                        yield name, "hidden file: its name begins with a dot"
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(f"{name}/")
                elif entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(base):
                    yield name, "link out of its folder: copy the file itself into the folder"
                else:
                    yield name, "" if entry.is_file() else _UNREADABLE


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _list_files(
    folder: Path, suffixes: Collection[str], files: NameTable, others: NameTable, ending: str
) -> Iterator[CaptionedFile]:
    """Fill `files` by suffix and `others` by ending; yields what is neither but should be told of."""
    for name, problem in _walk(folder):
        suffix = _suffix(name)
        if problem:
            yield CaptionedFile(name=name, problem=problem)
        elif suffix in suffixes:
            files.add(name)
        elif Path(name).name == ending or suffix == ending:
            others.add(name)
        elif suffix in IMAGE_SUFFIXES or suffix in OTHER_PICTURES or suffix in VIDEO_SUFFIXES:
            known = ", ".join(sorted(suffixes))
            yield CaptionedFile(name=name, problem=f"not a form that is read: {suffix}; expected one of {known}")


def _lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Lines of a file; None for one that is too long."""
    while line := file.readline(MAX_TEXT_BYTES + 1):
        if len(line) <= MAX_TEXT_BYTES:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(MAX_TEXT_BYTES)
        yield None


def _metadata_row(line: bytes | None, where: str, base: str, files: NameTable, named: NameTable) -> CaptionedFile:
    if line is None:
        return CaptionedFile(name=where, problem=f"text too long: more than {MAX_TEXT_BYTES} bytes in one line")
    try:
        fields = parse_object(line)
        name = base + str(fields["file_name"])
    except (ValueError, KeyError):
        shown = line[:80].decode("utf-8", "replace").strip()
        return CaptionedFile(name=where, problem=f"no JSON object with file_name: {shown!r}")
    if not named.add(name):
        return CaptionedFile(name=where, problem=f"image named twice: {name}")
    if name not in files:
        return CaptionedFile(name=where, problem=f"caption without an image: {name}")
    return CaptionedFile(name=name, caption=caption_of(fields, _KEYS), fields=fields, problem=no_text(fields, _KEYS))


def _sidecar_row(folder: Path, name: str, texts: NameTable, used: NameTable) -> CaptionedFile:
    stem = str(PurePosixPath(name).with_suffix(""))
    text, table = f"{stem}.txt", folder / f"{stem}.json"
    try:
        readable = table.is_file() and table.resolve().is_relative_to(folder.resolve())
        fields = parse_object(read_text(table)) if readable else {}
        if text in texts:
            if not used.add(stem):
                return CaptionedFile(name=name, problem=f"{NO_CAPTION}: {text} belongs to another image")
            return CaptionedFile(name=name, caption=read_text(folder / text).decode("utf-8-sig"), fields=fields)
    except UnicodeDecodeError:
        return CaptionedFile(name=name, problem=f"caption is not UTF-8: {Path(text).name}")
    except ValueError as error:
        return CaptionedFile(name=name, problem=f"no JSON object: {table.name}: {error}")
    except DataError as error:
        return CaptionedFile(name=name, problem=str(error))
    if not caption_of(fields, _KEYS):
        return CaptionedFile(
            name=name, problem=no_text(fields, _KEYS) or f"{NO_CAPTION}: no text file of the same name"
        )
    return CaptionedFile(name=name, caption=caption_of(fields, _KEYS), fields=fields)
