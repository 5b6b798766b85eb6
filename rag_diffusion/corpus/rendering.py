"""Many drawings rendered at once. resvg holds the interpreter lock while it draws, so processes share them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

_PROCESSES = 2
_CHUNK = 128  # drawings that a process takes at a time
_FEW = 4000  # drawings for which starting processes takes longer than it saves

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Results of a function of one drawing, in the order of the drawings.

    Args:
        function: of a module, or a `partial` of one, so that another process finds it.
        items: what it is called with.

    Yields:
        Its results.
    """
    if len(items) < _FEW:
        yield from map(function, items)
        return
    # Started afresh: a fork of a process that has threads may wait for a lock that nobody holds.
    with ProcessPoolExecutor(_PROCESSES, mp_context=get_context("spawn")) as pool:
        yield from pool.map(function, items, chunksize=_CHUNK)
