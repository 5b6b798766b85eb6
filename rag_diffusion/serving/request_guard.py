"""The outermost door: hosts that may be named, clients that leave, and errors that are one line in the log and JSON."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOG = logging.getLogger("uvicorn.error")
_SHOWN = 300  # characters of an error in the log


class Guard:
    """ASGI middleware around everything else.

    Work whose client has left is cancelled where it waits, and told by `scope["gone"]`, an event, where it runs.

    Args:
        app: what is called.
        hosts: names that a request may have in its header `Host`; empty lets all pass.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] = ()) -> None:
        self._app, self._hosts = app, frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        host = _host(scope)
        if self._hosts and host not in self._hosts:
            expected = " or ".join(sorted(self._hosts))
            await refusal(400, f"expected the host {expected}, got {host[:100]!r}")(scope, receive, send)
            return
        scope["gone"] = threading.Event()
        whole, left = anyio.Event(), anyio.Event()
        told_end = _has_body(scope)
        if not told_end:
            whole.set()

        async def heard() -> Message:
            nonlocal told_end
            if not told_end:
                told_end = True
                return {"type": "http.request", "body": b"", "more_body": False}
            if whole.is_set():  # what comes now is the end of the connection, for which `_watch` waits
                await left.wait()
                return {"type": "http.disconnect"}
            message = await receive()
            if not message.get("more_body", False):
                whole.set()
            return message

        async with anyio.create_task_group() as group:
            group.start_soon(_watch, whole, left, receive, scope["gone"], group.cancel_scope)
            await self._answer(scope, heard, send)
            group.cancel_scope.cancel()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app; whatever it raises is told here, and by nobody else."""
        started = False

        async def tell(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, tell)
        except ClientDisconnect:
            return
        except Exception as error:
            log(scope, error)
            if not started:
                await unforeseen(None, error)(scope, receive, send)


def unforeseen(request: Any, error: Exception) -> JSONResponse:
    """What a client is told of an `error` that nobody foresaw, whatever its `request` was."""
    return refusal(500, "something unexpected happened; the server's log has it")


def foreign_origin(request: Request, origins: Collection[str] = ()) -> str:
    """The site of whose page a `request` comes, where it is neither this server's nor one of `origins`; else empty."""
    origin = request.headers.get("origin", "")
    own = not origin or origin in origins or urlsplit(origin).netloc == request.headers.get("host")
    return "" if own else origin[:100]


def refusal(status: int, message: str, *, code: str = "", **headers: str) -> JSONResponse:
    """An error as this server tells it.

    Args:
        status: of HTTP.
        message: what was expected, what came, and what to do.
        code: by which programs know it, where it has one.
        headers: by their names with `_` for `-`.
    """
    content = {"message": message} | ({"code": code} if code else {})
    return JSONResponse(content, status, {name.replace("_", "-"): value for name, value in headers.items()})


def log(scope: Scope, error: BaseException) -> None:
    """Log an `error` of the request of a `scope`, and where it arose, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    request = f"{scope['method']} {scope['path']}"[:_SHOWN]
    line = f"{request}: {type(error).__name__}: {error}"[: 2 * _SHOWN] + where
    _LOG.error("%s", "".join(char if char.isprintable() else " " for char in line))


async def _watch(
    whole: anyio.Event, left: anyio.Event, receive: Receive, gone: threading.Event, scope: anyio.CancelScope
) -> None:
    """Wait for the client to leave once its body is whole."""
    await whole.wait()
    while True:
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            gone.set()
            left.set()
            scope.cancel()
            return


def _has_body(scope: Scope) -> bool:
    headers = dict(scope["headers"])
    return headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers


def _host(scope: Scope) -> str:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    host = headers.get(b"host", b"").decode("latin-1").lower()
    return host.rsplit(":", 1)[0] if not host.endswith("]") else host
