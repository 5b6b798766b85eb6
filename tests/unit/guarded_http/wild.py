"""A local HTTP server whose every path behaves as a test says, also as no server should."""

from __future__ import annotations

import io
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

Behaviour = Callable[[BaseHTTPRequestHandler, bytes], None]


def png(color: str = "red", side: int = 16) -> bytes:
    """A square of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), color).save(buffer, "PNG")
    return buffer.getvalue()


def says(content: bytes, kind: str = "image/png", status: int = 200, **headers: str) -> Behaviour:
    """A decent answer; `headers` replace those that would be right."""

    def behave(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        handler.send_response(status)
        told = {"Content-Type": kind, "Content-Length": str(len(content))}
        told |= {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in told.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)

    return behave


def says_json(value: Any) -> Behaviour:
    """JSON."""
    return says(json.dumps(value).encode(), "application/json")


def redirects(url: str, status: int = 302) -> Behaviour:
    """Sends elsewhere."""
    return says(b"", status=status, Location=url)


def raw(*parts: bytes, pause: float = 0.0, stop: threading.Event | None = None) -> Behaviour:
    """These bytes as they are, with a pause between them, until `stop`."""

    def behave(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        for part in parts:
            handler.wfile.write(part)
            handler.wfile.flush()
            if pause and (stop or threading.Event()).wait(pause):
                return
        handler.close_connection = True

    return behave


class Wild:
    """A running server.

    Attributes:
        url: of its root.
        asked: method, path and body of every request, in order.
        stop: set when the test is over; what hangs or drips waits on it.
    """

    def __init__(self, paths: Mapping[str, Behaviour]) -> None:
        self.paths = dict(paths)
        self.asked: list[tuple[str, str, bytes]] = []
        self.stop = threading.Event()
        wild = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                wild.asked.append((self.command, self.path, body))
                try:
                    wild.paths.get(self.path, says(b"not here", "text/plain", 404))(self, body)
                except OSError:
                    self.close_connection = True

            do_GET = do_POST = answer  # noqa: N815

            def log_message(self, format: str, *words: Any) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=lambda: self._server.serve_forever(0.02), daemon=True).start()

    def wrap(self, context: ssl.SSLContext) -> None:
        """Speak TLS from now on."""
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def close(self) -> None:
        """Stop it and what hangs in it."""
        self.stop.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def wild(paths: Mapping[str, Behaviour] | None = None) -> Iterator[Wild]:
    """A server for a `with` block."""
    server = Wild(paths or {})
    try:
        yield server
    finally:
        server.close()
