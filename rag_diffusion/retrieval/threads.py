"""Batches side by side, one thread each.

Small convolutions and matrices gain little from threads inside an operation, and lose much where
another process uses
a core: every operation waits for its slowest thread. One thread a batch, one batch a core has
neither trouble.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Batch = TypeVar("Batch")
Found = TypeVar("Found")


@contextmanager
def one_thread_per_operation() -> Iterator[None]:
    """Run torch's operations on one thread each while the block lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def side_by_side(
    run: Callable[[Batch], Found], batches: Iterable[Batch], *, workers: int | None = None
) -> Iterator[Found]:
    """Results of `run` in the order of `batches`.

    Args:
        run: works on one batch; called from several threads.
        batches: whatever `run` takes.
        workers: batches at a time; as many as this process may use cores where None.
    """
    count = workers or _cores()
    with one_thread_per_operation(), ThreadPoolExecutor(count) as pool:
        yield from pool.map(run, batches)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
