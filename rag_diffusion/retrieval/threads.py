"""Batches on every core, their results in order, read only a little ahead.

Small convolutions and matrices gain little from threads inside an operation, and lose much where another process uses
a core: every operation waits for its slowest thread. One thread a batch, one batch a core has neither trouble.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from threading import Lock, local
from typing import TypeVar

import torch

_AHEAD = 2  # batches that wait for a worker
_TURN = 5e-4  # seconds that a thread keeps the interpreter while another wants it, in place of 5 ms

Batch = TypeVar("Batch")
Result = TypeVar("Result")


class _Count:
    """Blocks of `one_thread_per_operation` that last, in all threads, and what was set before the first."""

    lock = Lock()
    blocks = before = 0
    turn = 0.0


_here = local()


@contextmanager
def one_thread_per_operation() -> Iterator[None]:
    """Run torch's operations on a CPU on one thread each while the block lasts; blocks may overlap.

    Threads take shorter turns at the interpreter meanwhile: one that reads or writes files beside them lets it go at
    every call, and would wait 5 ms each time to have it back.
    """
    with _Count.lock:
        if not _Count.blocks:
            _Count.before, _Count.turn = torch.get_num_threads(), sys.getswitchinterval()
            torch.set_num_threads(1)
            sys.setswitchinterval(min(_TURN, _Count.turn))
        _Count.blocks += 1
    try:
        yield
    finally:
        with _Count.lock:
            _Count.blocks -= 1
            if not _Count.blocks:
                torch.set_num_threads(_Count.before)
                sys.setswitchinterval(_Count.turn)


def in_order(
    run: Callable[[Batch], Result], batches: Iterable[Batch], *, workers: int | None = None
) -> Iterator[Result]:
    """Results of `run` in the order of `batches`, which are read only a little ahead of the workers.

    Called by one of its own workers, it works there, one batch after another.

    Args:
        run: works on one batch; called from several threads.
        batches: whatever `run` takes; read in the caller's thread. If they end in an error, the results of those
            before it come first.
        workers: batches at a time; as many as this process may use cores where None.
    """
    if in_a_worker():
        yield from map(run, batches)
        return
    count, pending, errors = workers or _cores(), deque[Future[Result]](), list[Exception]()
    source = _until_an_error(batches, errors)
    with one_thread_per_operation(), ThreadPoolExecutor(count, initializer=_begin) as pool:
        try:
            pending.extend(pool.submit(run, batch) for batch in islice(source, count + _AHEAD))
            while pending:
                yield pending.popleft().result()
                pending.extend(pool.submit(run, batch) for batch in islice(source, 1))
        finally:
            for future in pending:
                future.cancel()
    if errors:
        raise errors[0]


def in_a_worker() -> bool:
    """Whether the calling thread is one of `in_order`'s."""
    return getattr(_here, "worker", False)


def _begin() -> None:
    _here.worker = True


def _until_an_error(batches: Iterable[Batch], errors: list[Exception]) -> Iterator[Batch]:
    try:
        yield from batches
    except Exception as error:
        errors.append(error)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
