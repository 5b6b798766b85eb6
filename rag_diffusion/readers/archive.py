"""Archives that somebody uploads: unpacked within limits into a scratch folder, then read like any folder.

An archive beyond a limit, or one that is cut or damaged as a whole, is refused as a whole, before anything of it is
read. A member that leads out of its folder, a link or a damaged file is left out and told of.
"""

from __future__ import annotations

import errno
import lzma
import os
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from rag_diffusion.errors import DataError
from rag_diffusion.readers.fields import unsafe_path
from rag_diffusion.readers.records import Item, Reader, Rejection
from rag_diffusion.readers.tar_stream import TAR_SUFFIXES, tar_members

ARCHIVE_SUFFIXES = (".zip", *TAR_SUFFIXES)
_NESTED = (*ARCHIVE_SUFFIXES, ".gz", ".bz2", ".xz", ".7z", ".rar", ".zst")
_PIECE = 1 << 20
_FLOOR = 256 << 20  # bytes that any archive may unpack to, however small it is
_MAX_DIRECTORY = 64 << 20  # bytes of a zip's table of contents
# what zipfile raises on a file that is damaged or made to harm
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, NotImplementedError, RuntimeError)
_HARM = (*_DAMAGE, ValueError, IndexError, OverflowError, OSError)
_END, _END64, _LOCATOR64, _ENTRY = b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\1\2"


@dataclass(frozen=True, kw_only=True)
class ArchiveLimits:
    """How much an archive may hold.

    Attributes:
        entries: files, folders and links together.
        bytes: of everything when it is unpacked.
        ratio: unpacked bytes by the archive's own; not asked below 256 MiB.
    """

    entries: int = 100_000
    bytes: int = 8 << 30
    ratio: int = 200


class ArchiveReader:
    """Items of an uploaded zip or tar archive that holds any form a folder can have.

    Args:
        path: the archive.
        open_folder: opens the unpacked folder.
        limits: how much it may hold.
        scratch: folder for what is unpacked, which is removed at the end; the system's own where it is None.

    Raises:
        DataError: no such file.
    """

    def __init__(
        self, path: Path, open_folder: Callable[[Path], Reader], *, limits: ArchiveLimits, scratch: Path | None = None
    ) -> None:
        if not path.is_file():
            raise DataError(f"{path}: expected a zip or tar archive, got no file; name another one")
        self._path, self._open_folder, self._limits, self._scratch = path, open_folder, limits, scratch

    def __iter__(self) -> Iterator[Item | Rejection]:
        with tempfile.TemporaryDirectory(prefix="unpacked-", dir=self._scratch) as folder:
            try:
                rejections = list(unpack(self._path, Path(folder), self._limits))
            except DataError as error:
                yield Rejection(what=self._path.name, reason=f"{error}; nothing of it was taken")
                return
            yield from rejections
            try:
                reader = self._open_folder(Path(folder))
            except DataError as error:
                reason = str(error).replace(folder, self._path.name)
                yield Rejection(what=self._path.name, reason=f"no form that is read: {reason}")
                return
            yield from reader


def unpack(path: Path, folder: Path, limits: ArchiveLimits) -> Iterator[Rejection]:
    """Unpack a zip or tar archive.

    Args:
        path: the archive.
        folder: an empty folder.
        limits: how much it may hold.

    Yields:
        Members that are left out; at most as many as it has entries.

    Raises:
        DataError: it is beyond a limit, cut or damaged, or the disk is full.
    """
    with path.open("rb") as file:
        zipped = file.read(4) in (b"PK\3\4", _END) or (path.suffix.lower() == ".zip" and zipfile.is_zipfile(path))
    most = min(limits.bytes, max(_FLOOR, limits.ratio * path.stat().st_size))
    budget = _Budget(entries=limits.entries, bytes=most)
    yield from (_unzip if zipped else _untar)(path, folder, budget)


@dataclass
class _Budget:
    entries: int
    bytes: int

    def take_entry(self) -> None:
        self.entries -= 1
        if self.entries < 0:
            raise DataError("too many entries: the archive holds more than are allowed; cut it into several")

    def take_bytes(self, count: int) -> None:
        self.bytes -= count
        if self.bytes < 0:
            raise DataError("archive too large: it unpacks to more bytes than are allowed; cut it into several")


def _untar(path: Path, folder: Path, budget: _Budget) -> Iterator[Rejection]:
    for member in tar_members(path, max_bytes=budget.bytes + (budget.entries + 1) * 2048):
        budget.take_entry()
        if member.kind == "folder":
            continue
        reason = _refused(member.name, member.kind) or _write(folder / member.name, member.pieces(), budget)
        if reason:
            yield Rejection(what=member.name, reason=reason)


def _unzip(path: Path, folder: Path, budget: _Budget) -> Iterator[Rejection]:
    with path.open("rb") as file:
        _count_entries(file, budget)
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.filename.endswith("/"):
                    continue
                reason = _refused(info.filename, _kind(info))
                reason = reason or _write(folder / info.filename, _pieces(archive, info), budget)
                if reason:
                    yield Rejection(what=info.filename, reason=reason)
    except _HARM as error:
        raise DataError(f"corrupt archive: {error}") from None


def _pieces(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    with archive.open(info) as file:
        while piece := file.read(_PIECE):
            yield piece


def _write(target: Path, pieces: Iterator[bytes], budget: _Budget) -> str:
    """Write one new file, whole or not at all; returns why that cannot be, or nothing."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = target.open("xb")
    except FileExistsError:
        return "named twice: the archive holds another file or folder of this name"
    except (OSError, ValueError) as error:
        _raise_if_full(error)
        return f"bad name: {getattr(error, 'strerror', error)}"
    try:
        with file:
            for piece in pieces:
                budget.take_bytes(len(piece))
                file.write(piece)
    except _HARM as error:
        target.unlink()
        _raise_if_full(error)
        return f"corrupt member: {error}"
    return ""


def _raise_if_full(error: Exception) -> None:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise DataError("disk full: no room to unpack the archive; free some space") from error


def _refused(name: str, kind: str) -> str:
    """Why a member is left out, empty where it is not."""
    if unsafe := unsafe_path(name):
        return f"unsafe path: {unsafe}"
    if kind != "file":
        return f"no regular file: a {kind}"
    if "\\" in name:
        return "unsafe path: with a backslash"
    if PurePosixPath(name).name.lower().endswith(_NESTED):
        return "archive inside an archive: unpack it first"
    return ""


def _kind(info: zipfile.ZipInfo) -> str:
    form = stat.S_IFMT(info.external_attr >> 16)
    if form == stat.S_IFLNK:
        return "link"
    return "file" if form in (0, stat.S_IFREG) else "device"


def _count_entries(file: BinaryIO, budget: _Budget) -> None:
    """Walk through a zip's table of contents before anything keeps it in memory.

    Source: APPNOTE.TXT, 4.3.12 to 4.3.16.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 22 - 65535))
    tail = file.read()
    at = len(tail) - 22 if tail[-22:-18] == _END and tail.endswith(b"\0\0") else tail.rfind(_END)
    if at < 0 or len(tail) - at < 22:
        raise DataError("truncated archive: a zip without its table of contents")
    (length,) = struct.unpack_from("<L", tail, at + 12)
    start = size - len(tail) + at
    if tail[max(0, at - 20) : at].startswith(_LOCATOR64) and tail[max(0, at - 76) :].startswith(_END64):
        (length,) = struct.unpack_from("<Q", tail, at - 76 + 40)
        start -= 76
    if length > start:
        raise DataError(f"corrupt archive: a zip with a table of contents of {length} bytes before byte {start}")
    if length > _MAX_DIRECTORY:
        raise DataError(f"too many entries: a zip with a table of contents of {length} bytes; cut it into several")
    file.seek(start - length)
    while file.tell() < start:
        entry = file.read(46)
        if len(entry) < 46 or not entry.startswith(_ENTRY):
            raise DataError("corrupt archive: a zip whose table of contents is damaged")
        budget.take_entry()
        file.seek(sum(struct.unpack_from("<HHH", entry, 28)), os.SEEK_CUR)
