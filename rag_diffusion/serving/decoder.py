"""A process that decodes pictures for a server, each in a child of its own with bounds on memory and processor time.

    python -m rag_diffusion.serving.decoder BYTES SECONDS

It reads two sizes and a file from its input and writes pixels, or why there are none, to its output. The child is
thrown away with all that the picture took; what harms a decoder harms nothing else.
"""

from __future__ import annotations

import os
import resource
import signal
import struct
import sys
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps

from rag_diffusion.readers.checked import checked_image
from rag_diffusion.readers.images import ImageError, decode, to_square, transparency

REQUEST = struct.Struct("<III?")  # size and side, see `checked_image`, bytes of the file, whether it is a mask
ANSWER = struct.Struct("<BI")  # one of the two below, bytes that follow
PIXELS, REASON = 0, 1
_UNABLE = "could not create decoder object"


def main(memory: int, seconds: int) -> None:
    """Decode until the input ends.

    Args:
        memory: bytes that a picture may take beyond what this process has.
        seconds: of processor time that it may take.
    """
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while len(head := source.read(REQUEST.size)) == REQUEST.size:
        size, side, length, mask = REQUEST.unpack(head)
        kind, answer = _apart(source.read(length), size, side, mask, memory, seconds)
        sink.write(ANSWER.pack(kind, len(answer)) + answer)
        sink.flush()


def _apart(content: bytes, size: int, side: int, mask: bool, memory: int, seconds: int) -> tuple[int, bytes]:
    """What a child answers: `PIXELS` or `REASON`, and the bytes of it."""
    end, start = os.pipe()
    child = os.fork()
    if not child:
        os.close(end)
        _bound(memory, seconds)
        _write(start, *_decoded(content, size, side, mask))
    os.close(start)
    with os.fdopen(end, "rb") as answers:
        answer = answers.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        slow = os.WTERMSIG(status) == signal.SIGXCPU
        ended = f"corrupt image: signal {os.WTERMSIG(status)} ended its decoder"
        return REASON, (f"slow image: more than {seconds} s" if slow else ended).encode()
    return (answer[0], answer[1:]) if answer else (REASON, b"corrupt image: its decoder ended")


def _bound(memory: int, seconds: int) -> None:
    """Bound this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 2))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def checked_mask(content: bytes, what: str, size: int) -> Image.Image:
    """A mask that anybody may have made, as (size, size) gray: white where it is transparent.

    One without any transparency stays as it is; what is missing to a square becomes black.

    Args:
        content: an encoded image file.
        what: name used in the error.
        size: side of the square in pixels.

    Raises:
        ImageError: as `decode`.
    """
    gray = decode(content, what).convert("L")
    alpha = transparency(content)
    stays = ImageOps.invert(gray) if alpha is None else alpha
    return ImageOps.invert(to_square(stays.convert("RGB"), size).convert("L"))


def _decoded(content: bytes, size: int, side: int, mask: bool) -> tuple[int, bytes]:
    try:
        if mask:
            return PIXELS, checked_mask(content, "mask", size).tobytes()
        return PIXELS, checked_image(content, "image", size, side).tobytes()
    except ImageError as error:
        unable = _UNABLE in error.reason  # what WebP says where there is no memory for all of its pixels
        large = f"large image: its decoder cannot begin in the memory that it may have, or is damaged: {error.reason}"
        return REASON, (large if unable else error.reason).encode("utf-8", "replace")
    except MemoryError:
        return REASON, b"large image: its decoder asks for more memory than it may have"


def _write(pipe: int, kind: int, answer: bytes) -> None:
    """Tell the parent and end, without what an interpreter does at its end."""
    with os.fdopen(pipe, "wb") as sink:
        sink.write(bytes([kind]) + answer)
    os._exit(0)


def read_exactly(source: BinaryIO, count: int) -> bytes:
    """Read `count` bytes of the pipe `source`.

    Raises:
        EOFError: it ended before.
    """
    content = source.read(count)
    if len(content) != count:
        raise EOFError
    return content


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
