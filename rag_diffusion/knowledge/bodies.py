"""Requests and answers: bodies bounded in bytes and in time, parsed with clear errors, answered from threads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rag_diffusion.errors import RagDiffusionError

SECONDS = 600.0  # until a body is there
MEBIBYTE = 2**20


class BodyError(RagDiffusionError):
    """A body that is not taken.

    Attributes:
        status: of the answer.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class BodyLimits:
    """ASGI middleware: a body beyond its path's limit is refused as soon as that shows.

    Args:
        app: what is called.
        limits: bytes by path.
        other: bytes of all other paths.
    """

    def __init__(self, app: ASGIApp, limits: Mapping[str, int], other: int = MEBIBYTE) -> None:
        self._app, self._limits, self._other = app, limits, other

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._limits.get(scope["path"], self._other)
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not announced.isdigit() or int(announced) > most:
            error = {"message": f"expected a body of at most {most} bytes, got {announced.decode('latin-1')} announced"}
            await JSONResponse(error, 413, {"Connection": "close"})(scope, receive, send)
            return
        await self._app(scope, _counted(receive, most), send)


def _counted(receive: Receive, most: int) -> Receive:
    size, whole = 0, False
    end = asyncio.get_running_loop().time() + SECONDS

    async def counted() -> Message:
        nonlocal size, whole
        if whole:  # what comes now is the end of the connection
            return await receive()
        try:
            async with asyncio.timeout_at(end):
                message = await receive()
        except TimeoutError:
            raise BodyError(408, f"expected a whole body within {SECONDS:g} s, got {size} bytes") from None
        size += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        if size > most:
            raise BodyError(413, f"expected a body of at most {most} bytes, got more")
        return message

    return counted


def parse_object(content: bytes) -> dict[str, Any]:
    """A body that is a JSON object, whatever its content type says: clip-retrieval's client says none.

    Raises:
        BodyError: it is none.
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BodyError(400, f"expected a JSON object, got {len(content)} bytes that are no JSON: {error}") from None
    if not isinstance(found, dict):
        raise BodyError(400, f"expected a JSON object, got {type(found).__name__}")
    return found


async def read_form(request: Request, file: str, most_text: int) -> tuple[bytes, dict[str, str]]:
    """A multipart form with one file: its content, and the other fields.

    Args:
        request: with a body of multipart/form-data.
        file: name of the file's field.
        most_text: characters of a field.

    Raises:
        BodyError: it is none, or the file is missing.
    """
    try:
        form = await request.form(max_files=1, max_fields=32, max_part_size=4 * most_text)
    except HTTPException as error:
        raise BodyError(400, f"expected a multipart form, got {error.detail}") from None
    try:
        sent = form.get(file)
        if not isinstance(sent, UploadFile):
            raise BodyError(400, f"expected a file in the field {file!r}, got {sorted(form) or 'no field'}")
        content = await sent.read()
        return content, {name: value for name, value in form.items() if isinstance(value, str)}
    finally:
        await form.close()


async def save(request: Request, path: Path) -> int:
    """Write a body to a file as it comes; its number of bytes."""
    size = 0
    with path.open("wb") as file:
        async for chunk in request.stream():
            size += len(chunk)
            file.write(chunk)
    return size


async def in_thread(
    compute: Callable[[], Any], status: int = 200, limiter: CapacityLimiter | None = None
) -> JSONResponse:
    """What a function finds, made in a thread; `limiter` says how many such threads there are at a time."""
    return await to_thread.run_sync(lambda: JSONResponse(compute(), status), limiter=limiter)


def url_of(request: Request) -> Callable[[int], str]:
    """Where this server shows the image of a global id, as its client names the server."""
    base = str(request.base_url)
    return lambda key: f"{base}images/{key}"
