"""Progress of long steps: a bar on a terminal, plain lines elsewhere; rate and remaining time."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0

T = TypeVar("T")
_Listener = Callable[[str], None]
_listeners: list[_Listener] = []


def progress(
    iterable: Iterable[T],
    *,
    total: int | None = None,
    desc: str,
    unit: str = "it",
    initial: int = 0,
) -> Iterator[T]:
    """Yield the items of `iterable` and show how far it is.

    Args:
        iterable: what is worked through.
        total: number of items; taken from `len(iterable)` where it has one.
        desc: what is being done, e.g. `render`.
        unit: what one item is, e.g. `image`.
        initial: items that were done before, e.g. before a resume.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable) + initial
    with Progress(total=total, desc=desc, unit=unit, initial=initial) as bar:
        for item in iterable:
            yield item
            bar.update()


class Progress:
    """Counts finished items; a context manager.

    On a terminal it is a tqdm bar. Elsewhere it is a line every `_SECONDS_BETWEEN_LINES`, and one at
    the end. Each line also goes to whoever listens, e.g. Dagster's event log.

    Args:
        total: number of items, None where it is not known.
        desc: what is being done.
        unit: what one item is.
        initial: items that were done before this process began.
    """

    def __init__(self, *, total: int | None, desc: str, unit: str = "it", initial: int = 0) -> None:
        self._total, self._desc, self._unit = total, desc, unit
        self._initial = self._done = initial
        self._note = ""
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> Self:
        self._start = self._spoke = time.monotonic()
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=self._total,
                desc=self._desc,
                unit=self._unit,
                initial=self._initial,
                **_width(),
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._speak("done in" if kind is None else "stopped after")
        if self._bar is not None:
            self._bar.close()

    def update(self, count: int = 1) -> None:
        """Count `count` more finished items."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        if time.monotonic() - self._spoke >= _SECONDS_BETWEEN_LINES:
            self._speak()

    def note(self, text: str) -> None:
        """Show a short `text` beside the count, e.g. `loss 0.123`."""
        self._note = text
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def _speak(self, ending: str = "") -> None:
        self._spoke = time.monotonic()
        line = self._line(ending, self._spoke - self._start)
        if self._bar is None:
            tqdm.write(line, file=sys.stderr)
        for listener in _listeners:
            listener(line)

    def _line(self, ending: str, seconds: float) -> str:
        new = self._done - self._initial
        rate = new / max(seconds, 1e-9)
        share = f" ({self._done / self._total:.0%})" if self._total else ""
        count = f"{self._done}/{self._total}" if self._total is not None else f"{self._done}"
        parts = [f"{self._desc}: {count} {self._unit}{share}"]
        if new:
            parts.append(f"{rate:.1f} {self._unit}/s" if rate >= 1 else f"{1 / rate:.1f} s/{self._unit}")
        if ending:
            parts.append(f"{ending} {duration(seconds)}")
        elif new and self._total is not None:
            parts.append(f"{duration(max(self._total - self._done, 0) / rate)} left")
        return ", ".join(parts + [self._note] * bool(self._note))


def _width() -> dict[str, Any]:
    """Follow the terminal's width; some terminals, e.g. in containers, say it is 0."""
    has_width = os.get_terminal_size(sys.stderr.fileno()).columns > 0
    return {"dynamic_ncols": True} if has_width else {"ncols": 80}


def duration(seconds: float) -> str:
    """A length of time, in `seconds`, for people: `4.2 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def show_log() -> None:
    """Show what the library logs, from INFO on, on stderr as plain lines: for commands."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("rag_diffusion").setLevel(logging.INFO)


@contextmanager
def listening(listener: _Listener) -> Iterator[None]:
    """Give every progress line to `listener` as well."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextmanager
def reporting_to_dagster() -> Iterator[None]:
    """Send progress lines to the Dagster run that started this process, if one did.

    Dagster says so by the variable DAGSTER_PIPES_CONTEXT. Outside of Dagster this does nothing.
    """
    if "DAGSTER_PIPES_CONTEXT" not in os.environ:
        yield
        return
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as pipes, listening(pipes.log.info):
        yield
