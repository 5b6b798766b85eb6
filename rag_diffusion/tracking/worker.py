"""The process that brings what stages send to MLflow; `tracker` starts it.

A store that does not answer is asked again until it does: what is logged waits here, in order. Once the stage has
ended, for `PATIENCE` more seconds.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from rag_diffusion.tracking.store import unreachable
from rag_diffusion.tracking.tracker import Reply, Setup
from rag_diffusion.tracking.writer import METRICS_PER_BATCH, MlflowWriter

_LOG = logging.getLogger(__name__)

WAITING = ("tags", "dataset")  # what a stage says of itself before it has a result
PATIENCE = float(os.environ.get("RAG_DIFFUSION_TRACKING_PATIENCE", "600"))  # seconds after the stage's end
_SECONDS_BETWEEN = 2.0  # two tries
_SECONDS_TO_ANSWER = 10.0  # a stage that asks waits so long for a store that does not answer

Message = tuple[Any, ...]


class _Worker:
    """Reads messages until the pipe closes; keeps a list of those that could not be logged."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._writer: MlflowWriter | None = None
        self._errors: list[str] = []
        self._held: Message | None = None
        self._waiting: list[tuple[str, list[Any]]] = []
        self._begun = False
        self._silent = False
        self._asked_at: float | None = None  # since then the stage waits for an answer
        self._ended_at: float | None = None
        threading.Thread(target=self._read, daemon=True).start()

    def run(self) -> None:
        """Handle every message; a pipe that ends without `close` is a stage that was killed."""
        while True:
            kind, *content = self._next()
            if kind == "begin":
                self._try("open the store", partial(self._open, content[0]))
            elif kind == "end":
                self._take("close", ["KILLED", "the stage's process ended without a word"])
                return
            else:
                self._take(kind, content)
            if kind in ("run_id", "close"):
                self._reply()
            if kind == "close":
                return

    def _take(self, kind: str, content: list[Any]) -> None:
        """Handle a message, or let it wait for one that begins a run: `resume` may still come."""
        if kind in WAITING and not self._begun:
            self._waiting.append((kind, content))
            return
        if kind != "resume":
            self._begun = True
            for earlier in self._waiting:
                self._handle(*earlier)
            self._waiting.clear()
        self._handle(kind, content)

    def _read(self) -> None:
        while True:
            try:
                message = self._pipe.recv()
            except (EOFError, OSError):
                self._ended_at = self._ended_at or time.monotonic()
                self._inbox.put(("end",))
                return
            if message[0] in ("run_id", "close"):
                self._asked_at = time.monotonic()
            if message[0] == "close":
                self._ended_at = self._asked_at
            self._inbox.put(message)

    def _next(self) -> Message:
        """The next message; metrics that wait in a row are taken as one."""
        message, self._held = self._held or self._inbox.get(), None
        while message[0] == "metrics" and len(message[1]) < METRICS_PER_BATCH:
            try:
                following = self._inbox.get_nowait()
            except queue.Empty:
                break
            if following[0] != "metrics":
                self._held = following
                break
            message = ("metrics", message[1] + following[1])
        return message

    def _open(self, setup: Setup) -> None:
        self._writer = MlflowWriter(setup)

    def _handle(self, kind: str, content: list[Any]) -> None:
        writer = self._writer
        if writer is None:
            if kind not in ("run_id", "close"):
                self._errors.append(f"{kind}: there is no store to log to")
            return
        action = writer.begin if kind == "run_id" else getattr(writer, kind)
        self._try(kind, partial(action, *content))

    def _try(self, what: str, action: Callable[[], object]) -> None:
        """Do it, again and again while the store does not answer; keep what cannot be done."""
        while True:
            try:
                action()
                return
            except Exception as error:
                message = f"{what}: {type(error).__name__}: {error}"
                silent = unreachable(error)
            if silent and not self._silent:
                self._silent = True
                _LOG.error(
                    "*** TRACKING FAILED: the store does not answer (%s); what is logged waits until it does", message
                )
            if not (silent and self._patient()):
                self._told(message)
                return
            if self._asked_at is not None and time.monotonic() - self._asked_at > _SECONDS_TO_ANSWER:
                self._reply(late=True)
            time.sleep(_SECONDS_BETWEEN)

    def _patient(self) -> bool:
        return self._ended_at is None or time.monotonic() - self._ended_at < PATIENCE

    def _told(self, message: str) -> None:
        if not self._errors and not self._silent:
            _LOG.error("*** TRACKING FAILED: %s", message)
        self._errors.append(message)

    def _reply(self, *, late: bool = False) -> None:
        """Answer the stage, once for each time that it asks."""
        if self._asked_at is None:
            return
        self._asked_at = None
        run_id = self._writer.run_id if self._writer is not None else None
        with suppress(OSError):  # the stage may have been killed while it waited
            self._pipe.send(Reply(run_id=run_id, errors=self._errors, late=late))


if __name__ == "__main__":
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, signal.SIG_IGN)
    _Worker(Connection(int(sys.argv[1]))).run()
