"""The next step's batches are loaded in a thread while this step computes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Calls `load` for one step more than was asked for; a context manager, whose end waits for the thread.

    Args:
        load: what a step needs; depends on its number alone.
        steps: there is nothing to load from this step on.
    """

    def __init__(self, load: Callable[[int], T], steps: int) -> None:
        self._load, self._steps = load, steps
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: tuple[int, Future[T]] | None = None

    def __call__(self, step: int) -> T:
        """What `load` gives for a step; an error in the thread is raised here, at the step it belongs to."""
        waiting = self._next[1] if self._next is not None and self._next[0] == step else None
        found = self._load(step) if waiting is None else waiting.result()
        self._next = (step + 1, self._pool.submit(self._load, step + 1)) if step + 1 < self._steps else None
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
