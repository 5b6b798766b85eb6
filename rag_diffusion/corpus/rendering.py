"""Many drawings rendered at once. resvg holds the interpreter lock while it draws, so processes share them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, TypeVar

from rag_diffusion.engine.work import Engine
from rag_diffusion.readers.batches import in_batches

_PROCESSES = 2
_CHUNK = 128  # drawings that a process takes at a time
_FEW = 4000  # drawings for which starting processes takes longer than it saves

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], engine: Engine | None = None
) -> Iterator[Result]:
    """Results of a function of one drawing, in the order of the drawings.

    Args:
        function: of a module, or a `partial` of one, so that another process finds it.
        items: what it is called with.
        engine: whose workers take the place of processes of this machine.

    Yields:
        Its results.
    """
    if engine is not None:
        yield from (result for _, result in by_workers(engine, function, items))
        return
    if len(items) < _FEW:
        yield from map(function, items)
        return
    # Started afresh: a fork of a process that has threads may wait for a lock that nobody holds.
    with ProcessPoolExecutor(_PROCESSES, mp_context=get_context("spawn")) as pool:
        yield from pool.map(function, items, chunksize=_CHUNK)


def by_workers(
    engine: Engine, function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[tuple[Item, Result]]:
    """Items with the results of a function of one of them, in their order, by the workers of an engine.

    Args:
        engine: has the workers; they need no project.
        function: of a module, or a `partial` of one, so that a worker finds it.
        items: what it is called with; read a little ahead of the results.

    Yields:
        An item, and its result.
    """
    waiting = deque[list[Item]]()

    def batches() -> Iterator[list[Item]]:
        for batch in in_batches(items, _CHUNK):
            waiting.append(batch)
            yield batch

    for results in engine.map(EachOf(function), batches()):
        yield from zip(waiting.popleft(), results, strict=True)


@dataclass(frozen=True)
class EachOf:
    """Units are lists of what a function takes; see `engine.work.Work`.

    Attributes:
        function: of a module, or a `partial` of one.
    """

    function: Callable[[Any], Any]

    def open(self) -> Callable[[list[Any]], list[Any]]:
        """See `Work.open`."""
        return lambda batch: list(map(self.function, batch))
