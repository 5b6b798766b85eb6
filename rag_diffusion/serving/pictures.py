"""Pictures that strangers sent, decoded in processes of their own: so many at a time, each within its memory and time.

A picture within the limits may still take 300 MB while it is decoded, and an allocator keeps what it once had. Here
that is a process's, which ends with its picture; see `decoder`.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from rag_diffusion.readers.images import ImageError
from rag_diffusion.serving.decoder import ANSWER, PIXELS, REQUEST, read_exactly

WORKERS = 2  # pictures at a time; what others wait for is short
MEMORY = 400 << 20  # bytes of one: 8192 x 8192 pixels with transparency, and what shrinks them
SECONDS = 20  # of processor time of one
_WALL = 2 * SECONDS + 20  # seconds until a worker that says nothing is given up
_ROOT = Path(__file__).resolve().parents[2]


class Pictures:
    """Decodes pictures. Safe among threads; its processes start with the first picture and end by `close`.

    Args:
        workers: pictures at a time.
        memory: bytes that one may take.
        seconds: of processor time that one may take.
    """

    def __init__(self, workers: int = WORKERS, memory: int = MEMORY, seconds: int = SECONDS) -> None:
        self._words = [str(memory), str(seconds)]
        self._free: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(workers):
            self._free.put(None)

    def checked(self, content: bytes, what: str, size: int, side: int = 0) -> Image.Image:
        """Decode one picture, as `checked.checked_image`, in another process.

        Args:
            content: an encoded image file or an SVG.
            what: name used in the error.
            size: side of the square in pixels.
            side: see `Item.side`.

        Returns:
            (size, size) RGB.

        Raises:
            ImageError: as there; or it took too much memory or time, or its decoder came to harm.
        """
        return Image.frombytes("RGB", (size, size), self._decoded(content, what, size, side))

    def mask(self, content: bytes, what: str, size: int) -> Image.Image:
        """Decode one mask, as `decoder.checked_mask`, in another process.

        Args:
            content: an encoded image file.
            what: name used in the error.
            size: side of the square in pixels.

        Returns:
            (size, size) gray.

        Raises:
            ImageError: as `checked`.
        """
        return Image.frombytes("L", (size, size), self._decoded(content, what, size, 0, mask=True))

    def _decoded(self, content: bytes, what: str, size: int, side: int, mask: bool = False) -> bytes:
        """The pixels' bytes."""
        worker = self._free.get()
        try:
            if worker is None:
                worker = _Worker(self._words)
            kind, answer = worker.decode(content, size, side, mask)
        except (OSError, EOFError):
            if worker is not None:
                worker.end()
            worker = None
            raise ImageError(what, f"slow image: no answer of its decoder in {_WALL} s, or it ended") from None
        finally:
            self._free.put(worker)
        if kind == PIXELS:
            return answer
        raise ImageError(what, answer.decode("utf-8", "replace"))

    def close(self) -> None:
        """End the processes that wait for a picture; one that comes later starts another."""
        ended = 0
        with suppress(queue.Empty):
            while True:
                worker = self._free.get_nowait()
                ended += 1
                if worker is not None:
                    worker.end()
        for _ in range(ended):  # else whoever comes now would wait for ever
            self._free.put(None)


class _Worker:
    """One process."""

    def __init__(self, words: list[str]) -> None:
        path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rag_diffusion.serving.decoder", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # so that it and its child can be ended together, and Ctrl-C is the server's
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests: BinaryIO = self._process.stdin  # type: ignore[assignment]
        self._answers: BinaryIO = self._process.stdout  # type: ignore[assignment]

    def decode(self, content: bytes, size: int, side: int, mask: bool) -> tuple[int, bytes]:
        """What it answers; it is ended where it does not.

        Raises:
            OSError, EOFError: it ended.
        """
        watch = threading.Timer(_WALL, self.end)
        watch.daemon = True
        watch.start()
        try:
            self._requests.write(REQUEST.pack(size, side, len(content), mask))
            self._requests.write(content)
            self._requests.flush()
            kind, length = ANSWER.unpack(read_exactly(self._answers, ANSWER.size))
            return kind, read_exactly(self._answers, length)
        finally:
            watch.cancel()

    def end(self) -> None:
        """End it and its child."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._requests, self._answers):
            with suppress(OSError):
                pipe.close()
