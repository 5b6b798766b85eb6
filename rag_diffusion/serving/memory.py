"""Memory that goes back to the system once a request is over, with the allocator that Linux programs have."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of glibc's mallopt


def keep_small() -> None:
    """Give large blocks back at once, and keep few pools of small ones; where there is no glibc nothing happens.

    By itself glibc learns to keep blocks as large as 32 MiB after the first of them, and a pool for each thread.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((_MMAP_THRESHOLD, 1 << 20), (_TRIM_THRESHOLD, 1 << 20), (_ARENA_MAX, 2)):
            mallopt(option, value)


def give_back() -> None:
    """Return to the system what is free."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
