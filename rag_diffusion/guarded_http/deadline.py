"""One moment at which several requests end, whatever they wait for.

Every library's timeout is one of silence, so a server that drips a byte a second holds it for hours; here the sockets
themselves are shut when the time is over.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from itertools import count
from types import TracebackType

from rag_diffusion.guarded_http.addresses import SocketAddress

Watched = int  # number of a socket that is shut at the deadline


class Deadline:
    """The moment at which a group of requests ends. A context manager: leaving it closes what is still open.

    Args:
        seconds: from now on.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds
        self._open: dict[Watched, socket.socket] = {}
        self._numbers = count()
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self._shut)
        self._timer.daemon = True

    def __enter__(self) -> Deadline:
        self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._timer.cancel()
        self._shut()

    @property
    def left(self) -> float:
        """Seconds to go, 0 when it is over."""
        return max(0.0, self._end - time.monotonic())

    def connect(self, addresses: tuple[tuple[int, SocketAddress], ...]) -> tuple[socket.socket, Watched]:
        """Connect to the first address that answers.

        Args:
            addresses: family and socket address of each, see `Target`.

        Returns:
            The socket, and its number for `let_go`; it is shut at the deadline unless it is let go before.

        Raises:
            OSError: none answers.
        """
        failed: OSError = TimeoutError("out of time")
        for family, address in addresses:
            connection = socket.socket(family, socket.SOCK_STREAM)
            watched = self._watch(connection)
            try:
                connection.settimeout(max(0.001, self.left))
                connection.connect(address)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return connection, watched
            except OSError as error:
                failed = error
                connection.close()
                self.let_go(watched)
        raise failed

    def let_go(self, watched: Watched) -> None:
        """A request is over: the socket of number `watched` is watched no more."""
        with self._lock:
            handle = self._open.pop(watched, None)
        if handle is not None:
            handle.close()

    def _watch(self, connection: socket.socket) -> Watched:
        """Remember a second handle: TLS takes the first one over."""
        handle = connection.dup()
        with self._lock:
            watched = next(self._numbers)
            self._open[watched] = handle
        return watched

    def _shut(self) -> None:
        with self._lock:
            for handle in self._open.values():
                with suppress(OSError):
                    handle.shutdown(socket.SHUT_RDWR)
                handle.close()
            self._open.clear()
