"""Server-sent events: an answer that comes piece by piece, and whoever leaves it is worked for no further."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from rag_diffusion.errors import RagDiffusionError
from rag_diffusion.serving.request_guard import log, unforeseen

_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # no proxy keeps what has come


class Events(StreamingResponse):
    """The answer.

    It listens to nobody: the `Guard` around it sees a client leave.

    Args:
        events: each with its field `type`, by which it is named.
        error: what is told of an error that ends them.
        at_end: called once the answer has ended, however it did.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[Mapping[str, Any]],
        error: Callable[[Exception], Mapping[str, Any]],
        at_end: Callable[[], None],
    ) -> None:
        self._error, self._at_end, self._scope = error, at_end, dict[str, Any]()
        super().__init__(self._pieces(events), headers=_HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        self._scope = dict(scope)
        try:
            await self.stream_response(send)
        finally:
            self._at_end()

    async def _pieces(self, events: AsyncIterator[Mapping[str, Any]]) -> AsyncIterator[str]:
        try:
            async for event in events:
                yield _piece(event)
        except RagDiffusionError as error:
            yield _piece(self._error(error))
        except Exception as error:
            log(self._scope, error)
            yield _piece(self._error(RuntimeError(json.loads(bytes(unforeseen(None, error).body))["message"])))


def _piece(event: Mapping[str, Any]) -> str:
    return f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n"
