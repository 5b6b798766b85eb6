"""Servers of a few lines that run behind the bounds of the knowledge base's own, and raw sockets to ask them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from rag_diffusion.serving.connections import ConnectionLimits, bounded_protocol


@contextmanager
def running(app: ASGIApp, room: ConnectionLimits | None = None) -> Iterator[int]:
    """The port of a server that runs in a thread."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="info", http=bounded_protocol(room), ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)


def connected(port: int, content: bytes = b"", **options: Any) -> socket.socket:
    """A socket that has sent something."""
    found = socket.create_connection(("127.0.0.1", port), timeout=20, **options)
    found.sendall(content)
    return found


def rest(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    found = b""
    while piece := connection.recv(2**16):
        found += piece
    return found
