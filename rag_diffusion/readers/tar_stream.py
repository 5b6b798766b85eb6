"""Tar archives member by member: nothing is unpacked, nothing listed, and no header can fill the memory."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from rag_diffusion.errors import DataError

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
MAX_HEADER = 1 << 20  # bytes of all headers of one member: long names, extended attributes, maps of sparse files
_PIECE = 1 << 20
_DAMAGE = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError, ValueError)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One entry of an archive, while the stream stands at it.

    Attributes:
        name: as the archive has it, without a leading `./`.
        size: bytes.
        kind: `file`, `folder`, `link`, `device` or `sparse file`.
    """

    name: str
    size: int
    kind: str
    _file: IO[bytes] | None

    def pieces(self) -> Iterator[bytes]:
        """The bytes of a file, in pieces.

        Raises:
            DataError: the archive ends before the file does.
        """
        left = self.size
        while self._file is not None and left:
            try:
                piece = self._file.read(min(_PIECE, left))
            except _DAMAGE as error:
                raise DataError(_reason(error)) from None
            if not piece:
                raise DataError(f"truncated archive: {left} bytes of {self.name[:80]} are missing")
            left -= len(piece)
            yield piece

    def read(self) -> bytes:
        """All bytes of a file; look at `size` first."""
        return b"".join(self.pieces())


def tar_members(archive: Path | IO[bytes], *, max_bytes: int | None = None) -> Iterator[Member]:
    """Members of a tar archive in their order, plain or compressed with gzip, bzip2 or xz.

    Args:
        archive: a file, or one that is open and stands at its beginning; the caller closes that.
        max_bytes: of the archive when it is unpacked.

    Raises:
        DataError: the archive is truncated, corrupt or too large; the reason stands before the first colon.
    """
    meter: _Meter | None = None
    try:
        with _opened(archive) as raw, _decompressed(raw) as plain:
            meter = _Meter(plain, max_bytes)
            with tarfile.open(
                fileobj=cast("IO[bytes]", meter), mode="r|", tarinfo=_Header, errors="surrogateescape"
            ) as tar:
                yield from _walk(tar, meter)
            if meter.read(_PIECE).strip(b"\0"):
                raise DataError("corrupt archive: more bytes follow its end")
    except _DAMAGE as error:
        raise DataError(_reason(error)) from None


def _opened(archive: Path | IO[bytes]) -> AbstractContextManager[IO[bytes]]:
    return archive.open("rb") if isinstance(archive, Path) else nullcontext(archive)


def _walk(tar: tarfile.TarFile, meter: _Meter) -> Iterator[Member]:
    while (info := tar.next()) is not None:
        file = tar.extractfile(info) if info.isreg() and not info.issparse() else None
        meter.header_left = None
        yield Member(name=info.name.removeprefix("./"), size=info.size, kind=_kind(info), _file=file)
        while file is not None and file.read(_PIECE):  # what nobody read, so that the next read is of headers
            pass
        cast("Any", tar).members = []  # else it keeps every header it saw
        meter.header_left = MAX_HEADER


class _Header(tarfile.TarInfo):
    """A header that says what is wrong with it, where tarfile would take it for the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # the end, as it should be
            if len(buf) < tarfile.BLOCKSIZE:
                raise DataError("truncated archive: it ends without its end mark") from None
            raise DataError(f"corrupt archive: a header that is none ({error})") from None


class _Meter:
    """A file that counts what is read of it, and stops at limits."""

    def __init__(self, file: IO[bytes], max_bytes: int | None) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self._total = 0
        self.header_left: int | None = MAX_HEADER

    def read(self, size: int) -> bytes:
        """At most `size` bytes."""
        piece = self._file.read(size)
        self._total += len(piece)
        if self._max_bytes is not None and self._total > self._max_bytes:
            raise DataError(f"archive too large: more than {self._max_bytes} bytes when it is unpacked")
        if self.header_left is not None:
            self.header_left -= len(piece)
            if self.header_left < 0:
                raise DataError(f"corrupt archive: headers of one member of more than {MAX_HEADER} bytes")
        return piece


def _decompressed(raw: IO[bytes]) -> IO[bytes]:
    """The archive as it was before compression, told by its first bytes."""
    magic = raw.read(6)
    raw.seek(0)
    opened: Any = nullcontext(raw)
    if magic.startswith(b"\x1f\x8b"):
        opened = gzip.GzipFile(fileobj=raw)
    elif magic.startswith(b"BZh"):
        opened = bz2.BZ2File(raw)
    elif magic.startswith(b"\xfd7zXZ"):
        opened = lzma.LZMAFile(raw)  # noqa: SIM115 (the caller closes it)
    elif magic.startswith(b"\x28\xb5\x2f\xfd"):
        raise DataError("not a form that is read: a tar compressed with zstd; decompress it")
    return cast("IO[bytes]", opened)


def _kind(info: tarfile.TarInfo) -> str:
    if info.issparse():
        return "sparse file"
    if info.isreg():
        return "file"
    if info.isdir():
        return "folder"
    return "link" if info.issym() or info.islnk() else "device"


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, EOFError) or "unexpected end" in text or "ended before" in text:
        return f"truncated archive: {text}"
    return f"corrupt archive: {text}"
