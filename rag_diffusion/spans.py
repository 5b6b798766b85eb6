"""How long the parts of a query took, and what went in and came out: a tree of spans, as tracing tools show it.

    with recording("sample", prompt="a red apple") as root:
        ...                                   # inside of it, code that knows nothing of `root` says:
        with span("retrieve", "RETRIEVER", query=...) as part:
            part.outputs = ...

Outside of `recording` a span costs nothing and is forgotten.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class Span:
    """One part.

    Attributes:
        name: of the part.
        kind: one of MLflow's span types: CHAIN, RETRIEVER, EMBEDDING, RERANKER, TOOL, ...
        inputs, outputs: what JSON can hold.
        start, end: nanoseconds since 1970; 0 while it is not known.
        children: parts of it, in their order.
    """

    name: str
    kind: str = "CHAIN"
    inputs: dict[str, Any] = field(default_factory=dict)
    outputs: Any = None
    start: int = 0
    end: int = 0
    children: list[Span] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.end - self.start) / 1e9


_OPEN: ContextVar[Span | None] = ContextVar("open span", default=None)


@contextmanager
def recording(name: str, **inputs: Any) -> Iterator[Span]:
    """A tree of its own, whose root, called `name`, is yielded; `inputs` are what went in."""
    yield from _timed(Span(name=name, inputs=inputs))


@contextmanager
def span(name: str, kind: str = "CHAIN", **inputs: Any) -> Iterator[Span]:
    """A part of what is being recorded here, if anything is.

    Args:
        name: of the part.
        kind: see `Span`.
        **inputs: what went in.
    """
    above, part = _OPEN.get(), Span(name=name, kind=kind, inputs=inputs)
    if above is None:
        yield part
        return
    above.children.append(part)
    yield from _timed(part)


def _timed(part: Span) -> Iterator[Span]:
    before = _OPEN.set(part)
    part.start = time.time_ns()
    try:
        yield part
    finally:
        part.end = time.time_ns()
        _OPEN.reset(before)
