"""Bodies bounded in bytes and by rate while they come, and kept on disk where they are large."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rag_diffusion.serving.bounded_json import BodyError, check_values
from rag_diffusion.serving.request_guard import refusal

MEBIBYTE = 2**20
GRACE = 10.0  # seconds that any body may take
RATE = 2**14  # bytes a second that a body has to come at after them
HELD = 2**33  # bytes of all bodies that are under way; those beyond 1 MiB lie on disk


class BodyLimits:
    """ASGI middleware: a body beyond its path's limit, or one that hardly comes, is refused as soon as that shows.

    Args:
        app: what is called.
        limits: bytes by path.
        other: bytes of all other paths.
    """

    def __init__(self, app: ASGIApp, limits: Mapping[str, int], other: int = MEBIBYTE) -> None:
        self._app, self._limits, self._other = app, limits, other
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(self, receive, self._limits.get(scope["path"], self._other))
        headers = dict(scope["headers"])
        announced = headers.get(b"content-length", b"0")
        body.whole = announced == b"0" and b"transfer-encoding" not in headers

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and not body.whole:  # the rest of it is not read
                message = dict(message) | {"headers": [*message.get("headers", []), (b"connection", b"close")]}
            await send(message)

        if not announced.isdigit() or int(announced) > body.most:
            message = f"{body.expected}, got {announced[:30].decode('latin-1')} announced"
            await refusal(413, message)(scope, receive, answer)
            return
        try:
            await self._app(scope, body.receive, answer)
        finally:
            self.held -= body.size


class _Body:
    """A body on its way: how much has come, and until when the next piece must."""

    def __init__(self, limits: BodyLimits, receive: Receive, most: int) -> None:
        self._limits, self._receive, self.most = limits, receive, most
        self.size, self.whole = 0, False
        self.expected = f"expected a body of at most {most} bytes"
        self._start = asyncio.get_running_loop().time()

    async def receive(self) -> Message:
        """The next piece.

        Raises:
            BodyError: it did not come in time, it is one too many, or all bodies together are too large.
        """
        if self.whole:  # what comes now is the end of the connection
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._start + GRACE + self.size / RATE):
                message = await self._receive()
        except TimeoutError:
            wanted = f"expected {RATE} bytes of body a second after the first {GRACE:g} s"
            raise BodyError(408, f"{wanted}, got {self.size} bytes in all") from None
        count = len(message.get("body", b""))
        self.size += count
        self._limits.held += count
        self.whole = not message.get("more_body", False)
        if self.size > self.most:
            raise BodyError(413, f"{self.expected}, got more")
        if self._limits.held > HELD:
            raise BodyError(429, f"expected at most {HELD} bytes of bodies at a time, got more; come again", 10)
        return message


async def received(request: Request) -> tempfile.SpooledTemporaryFile[bytes]:
    """The body of a `request` that is to be JSON, in memory up to 1 MiB and else on disk; the caller closes it.

    Raises:
        BodyError: it has more values than any object that is taken.
    """
    body = tempfile.SpooledTemporaryFile[bytes](max_size=MEBIBYTE)
    commas = 0
    try:
        async for chunk in request.stream():
            commas += chunk.count(b",")
            check_values(commas)
            body.write(chunk)
    except BaseException:
        body.close()
        raise
    return body


@asynccontextmanager
async def read_form(request: Request, file: str, most_text: int) -> AsyncIterator[tuple[UploadFile, dict[str, str]]]:
    """A multipart form with one file, and the other fields; beyond 1 MiB the file lies on disk.

    Args:
        request: with a body of multipart/form-data.
        file: name of the file's field.
        most_text: characters of a field.

    Yields:
        The file, and the texts by the names of their fields.

    Raises:
        BodyError: it is none, or the file is missing.
    """
    async with read_fields(request, 1, most_text) as fields:
        upload = next((value for name, value in fields if name == file), None)
        if not isinstance(upload, UploadFile):
            names = sorted({name for name, _ in fields})
            raise BodyError(400, f"expected a file in the field {file!r}, got {names or 'no field'}")
        yield upload, {name: value for name, value in fields if isinstance(value, str)}


@asynccontextmanager
async def read_fields(
    request: Request, most_files: int, most_text: int
) -> AsyncIterator[list[tuple[str, UploadFile | str]]]:
    """The fields of a multipart form; files beyond 1 MiB lie on disk.

    Args:
        request: with a body of multipart/form-data.
        most_files: files that it may have.
        most_text: characters of a field that is no file.

    Yields:
        Names and values, in the order they came.

    Raises:
        BodyError: it is none.
    """
    try:
        form = await request.form(max_files=most_files, max_fields=64, max_part_size=4 * most_text)
    except HTTPException as error:
        raise BodyError(400, f"expected a multipart form, got {error.detail}") from None
    try:
        yield list(form.multi_items())
    finally:
        await form.close()


async def save(request: Request, path: Path) -> int:
    """Write the body of a `request` to the file `path` as it comes; its number of bytes."""
    size = 0
    with path.open("wb") as file:
        async for chunk in request.stream():
            size += len(chunk)
            file.write(chunk)
    return size
