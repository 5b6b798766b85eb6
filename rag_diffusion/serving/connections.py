"""Connections that cannot be held for nothing: so many by address, heads in time, answers read at some rate.

uvicorn bounds the size of a head and how long a connection may be silent between two requests. What it leaves open:
half a head that never goes on, an answer that is never read, and that connections which wait count as requests.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol


@dataclass
class ConnectionLimits:
    """How many may be connected, and how patient the server is with them.

    Attributes:
        by_address: connections of one address.
        in_all: beyond these the one that has waited longest for a head makes room.
        head: seconds for a head, from its first byte or from the connection on.
        rate: bytes a second that a client reads its answer at, in the mean of `look` seconds.
        look: seconds.
        counts: connections by address.
        waiting: connections that wait for a head, the longest first.
    """

    by_address: int = 128
    in_all: int = 512
    head: float = 10.0
    rate: int = 2**14
    look: float = 10.0
    counts: Counter[str] = field(default_factory=Counter)
    waiting: dict[Any, None] = field(default_factory=dict)


class BoundedProtocol(H11Protocol):
    """One connection; `room` is shared by those of a server."""

    room: ConnectionLimits
    _address = ""
    _late: asyncio.TimerHandle | None = None
    _look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection of a `transport`, and wait for its head; refuse it where there is no room."""
        super().connection_made(transport)
        room, self._address = self.room, self.client[0] if self.client else ""
        room.counts[self._address] += 1
        if room.counts[self._address] > room.by_address:
            self._refuse(429, f"expected at most {room.by_address} connections of one address, got one more", 1)
            return
        if room.counts.total() > room.in_all:
            if not room.waiting:
                self._refuse(429, f"expected at most {room.in_all} connections, got one more; come again", 5)
                return
            next(iter(room.waiting))._refuse(408, "expected a head before others needed the connection, got none")
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it no more; `exc` is why it ended, if not as it should."""
        self._has_head()
        if self._look is not None:
            self._look.cancel()
        self.room.counts[self._address] -= 1
        if not self.room.counts[self._address]:
            del self.room.counts[self._address]
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take the bytes `data`; half a head starts the clock, a whole one stops it."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._has_head()
        elif self._late is None and self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self._await_head()

    def on_response_complete(self) -> None:
        """Go on with the next request, and see that this answer is read."""
        super().on_response_complete()
        self._watch_reading(self.transport.get_write_buffer_size())

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in JSON as all errors; `msg` says what is wrong with it."""
        self._refuse(400, f"expected a request of HTTP/1.1, got none: {msg}")

    def _await_head(self) -> None:
        self.room.waiting[self] = None
        message = f"expected a whole head within {self.room.head:g} s, got none"
        self._late = self.loop.call_later(self.room.head, self._refuse, 408, message)

    def _has_head(self) -> None:
        self.room.waiting.pop(self, None)
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _watch_reading(self, before: int) -> None:
        """Look again whether what waits to be sent becomes less; end a connection whose client hardly reads."""
        if before:
            self._look = self.loop.call_later(self.room.look, self._is_read, before)

    def _is_read(self, before: int) -> None:
        now = self.transport.get_write_buffer_size()
        if now and before - now < self.room.rate * self.room.look:
            self.transport.abort()
        else:
            self._watch_reading(now)

    def _refuse(self, status: int, message: str, retry_after: int = 0) -> None:
        """Answer by itself and close."""
        self._has_head()
        if self.transport.is_closing():
            return
        content = json.dumps({"message": message}).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(content))), ("Connection", "close")]
        headers += [("Retry-After", str(retry_after))] * bool(retry_after)
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            response = h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status])
            for event in (response, h11.Data(data=content), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def bounded_protocol(room: ConnectionLimits | None = None) -> type[BoundedProtocol]:
    """The class of a server's connections, for uvicorn's `http`.

    Args:
        room: of this server.
    """
    return type("BoundedProtocol", (BoundedProtocol,), {"room": room or ConnectionLimits()})
