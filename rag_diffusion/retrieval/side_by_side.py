"""Searches of a single query in several indexes, on as many cores: each of them uses one."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")
_POOL = ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1), thread_name_prefix="search")  # beside the caller's


def side_by_side(calls: Sequence[Callable[[], Result]], num_queries: int = 1) -> list[Result]:
    """Results of all calls, in their order: side by side for a single query, else one after the other.

    The caller makes the first one, and those that no other thread has begun by then: where all are busy nothing waits,
    and calls may have calls side by side themselves.

    Args:
        calls: that release the interpreter for most of their time, as searches of faiss do.
        num_queries: that each call searches for; of several it uses all cores itself.

    Raises:
        Exception: whatever a call raises.
    """
    if num_queries > 1 or len(calls) < 2 or (waiting := _begun(calls[1:])) is None:
        return [call() for call in calls]
    try:
        results = [calls[0]()]
        for call, future in zip(calls[1:], waiting, strict=True):
            results.append(call() if future.cancel() else future.result())
        return results
    finally:
        for future in waiting:
            future.cancel()


def _begun(calls: Sequence[Callable[[], Result]]) -> list[Future[Result]] | None:
    try:
        return [_POOL.submit(call) for call in calls]
    except RuntimeError:  # the interpreter is ending, and a thread of its own still searches
        return None
