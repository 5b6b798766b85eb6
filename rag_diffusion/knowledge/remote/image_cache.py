"""Images that were fetched before, in a folder of bounded size; removing the folder removes them all."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rag_diffusion.files import atomic_write

MAX_BYTES = 2**30
ROOM = 0.9  # share of the bound that is left after old files were thrown out
MAX_AGE = 86_400.0  # seconds after which an image is fetched again: its URL may show another one by then
_DIGEST, _TIME = 32, 8  # bytes before the content: sha256 of the rest, seconds since 1970
_HEAD = _DIGEST + _TIME


class ImageCache:
    """Encoded images by URL; each file is named by the sha256 of its URL and begins with that of what follows.

    Safe among threads and processes: a file is there whole or not at all, and one that does not fit its own hash is
    thrown out. The ones used longest ago go first.

    Args:
        folder: made at the first write.
        max_bytes: bound of all files together.
        wanted: whether its images may be kept still; asked after each write, which is undone where they may not.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES, *, wanted: Callable[[], bool] = lambda: True) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._wanted = wanted
        self._lock = threading.Lock()
        self._size: int | None = None

    def get(self, url: str) -> bytes | None:
        """The image that `url` showed when it was fetched; None where it is not kept, or too old."""
        path = self._path(url)
        try:
            stored = path.read_bytes()
        except OSError:
            return None
        age = time.time() - int.from_bytes(stored[_DIGEST:_HEAD], "big")
        if hashlib.sha256(stored[_DIGEST:]).digest() != stored[:_DIGEST] or not 0 <= age + 1 <= MAX_AGE:
            path.unlink(missing_ok=True)
            return None
        with suppress(OSError):
            os.utime(path)
        return stored[_HEAD:]

    def put(self, url: str, content: bytes) -> None:
        """Keep an image, and throw out old ones where it would be too much.

        Args:
            url: that it was fetched from.
            content: the image file.

        Raises:
            DataError: the disk is full.
        """
        if _HEAD + len(content) > self.max_bytes * ROOM:
            return
        dated = int(time.time()).to_bytes(_TIME, "big") + content
        with self._lock:
            if self._size is None:
                self._size = sum(size for _, size, _ in self._files())
            atomic_write(self._path(url), hashlib.sha256(dated).digest() + dated)
            self._size += _HEAD + len(content)
            if self._size > self.max_bytes:
                self._size = self._thin_out()
            if not self._wanted():
                self._path(url).unlink(missing_ok=True)
                with suppress(OSError):  # not empty, or gone
                    self.folder.rmdir()

    def _path(self, url: str) -> Path:
        return self.folder / hashlib.sha256(url.encode()).hexdigest()

    def _thin_out(self) -> int:
        """Bytes that stay."""
        files = sorted(self._files())
        size = sum(own for _, own, _ in files)
        for _, own, path in files:
            if size <= self.max_bytes * ROOM:
                break
            path.unlink(missing_ok=True)
            size -= own
        return size

    def _files(self) -> list[tuple[float, int, Path]]:
        """Time of the last use, bytes and path of every file; one that vanishes meanwhile is left out."""
        files = []
        for path in self.folder.glob("[0-9a-f]*"):
            with suppress(OSError):
                state = path.stat()
                files.append((state.st_mtime, state.st_size, path))
        return files
