"""Errors below `/v1` in the form that clients of the OpenAI API read; everywhere else they are `{"message": ...}`.

{"error": {"message": "...", "type": "invalid_request_error", "param": "size", "code": null}}
"""

from __future__ import annotations

import json
import re
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BELOW = "/v1/"
_TYPES = {
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "insufficient_permissions"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
}
_PARAM = re.compile(r"^(?:body\.)?([a-z_]{1,40})(?:\.[\w.-]+|\[\])?: ")


def error_body(status: int, message: str, code: str | None = None) -> dict[str, Any]:
    """What is told of an error.

    Args:
        status: of HTTP.
        message: what was expected, what came, and what to do; a field's name before a colon is the one that is wrong.
        code: by which programs know it; None is that of the status.
    """
    kind, usual = _TYPES.get(status, ("server_error" if status >= 500 else "invalid_request_error", None))
    named = _PARAM.match(message)
    param = named[1] if named is not None and kind == "invalid_request_error" else None
    return {"error": {"message": message, "type": kind, "param": param, "code": code or usual}}


class ApiErrors:
    """ASGI middleware that tells errors below `/v1` so, whoever raised them.

    Args:
        app: what is called.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or not scope["path"].startswith(BELOW):
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        content = b""

        async def told(message: Message) -> None:
            nonlocal start, content
            if message["type"] == "http.response.start" and message["status"] >= 400:
                start = message
                return
            if start is None:
                await send(message)
                return
            content += message.get("body", b"")
            if not message.get("more_body", False):
                await _translated(start, content)(scope, receive, send)

        await self._app(scope, receive, told)


def _translated(start: Message, content: bytes) -> JSONResponse:
    """An error, `start` and `content` of its response, in the API's form; the schema's 422 is its 400."""
    status = 400 if start["status"] == 422 else start["status"]
    try:
        told = json.loads(content)
    except ValueError:  # text, as that of a refused preflight
        told = {"message": content.decode("utf-8", "replace")}
    body = error_body(status, told["message"], told.get("code"))
    response = JSONResponse(body, status)
    kept = [pair for pair in start["headers"] if pair[0].lower() not in (b"content-length", b"content-type")]
    response.raw_headers.extend(kept)
    return response
