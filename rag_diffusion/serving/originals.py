"""Originals over HTTP: bytes that strangers made, sent in pieces, and told to a browser as nothing that it may run."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator

from anyio import to_thread
from PIL import Image
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from rag_diffusion.readers.images import raster_formats
from rag_diffusion.readers.svg import is_drawing
from rag_diffusion.store.originals import Original

SVG, UNKNOWN = "image/svg+xml", "application/octet-stream"
KINDS = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/avif", "image/bmp", "image/tiff", SVG, UNKNOWN)
SAFE = {
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Content-Disposition": "attachment",
    "Cache-Control": "max-age=3600",
}
_BEGINNING = 2**16  # bytes that tell what a file is
_PIECE = 2**18  # bytes in memory at a time


class _Sent(StreamingResponse):
    """A streamed answer that listens to nobody: the `Guard` around it sees a client leave."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        await self.stream_response(send)


def response_of(original: Original) -> StreamingResponse:
    """A response that reads the file of an `original` while its client takes it."""
    start = original.file.tell()
    kind = _kind(original.file.read(min(_BEGINNING, original.length)))
    original.file.seek(start)
    headers = SAFE | {"Content-Length": str(original.length)}
    return _Sent(_pieces(original), media_type=kind, headers=headers)


async def _pieces(original: Original) -> AsyncIterator[bytes]:
    left = original.length
    with original.file as file:
        while left and (piece := await to_thread.run_sync(file.read, min(left, _PIECE))):
            left -= len(piece)
            yield piece


def _kind(beginning: bytes) -> str:
    """The content type of a file by how it begins."""
    if is_drawing(beginning):
        return SVG
    try:
        with Image.open(io.BytesIO(beginning), formats=raster_formats()) as image:
            kind = image.get_format_mimetype() or UNKNOWN
    except Exception:  # a header longer than the beginning; a browser is to save it
        return UNKNOWN
    kind = "image/jpeg" if kind == "image/mpo" else kind
    return kind if kind in KINDS else UNKNOWN
