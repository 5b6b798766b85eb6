"""Candidates a few at a time, fewer where their files are large: several batches are in memory at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rag_diffusion.readers.records import Item
from rag_diffusion.types import Pair

BATCH_BYTES = 2**24  # of files, from which on a batch is full

Kind = TypeVar("Kind")


def in_batches(source: Iterable[Kind], length: int) -> Iterator[list[Kind]]:
    """Batches of a source, in its order.

    Args:
        source: items, pairs, and what has no file.
        length: candidates of a batch at most.

    Yields:
        A batch, as soon as it has so many, or `BATCH_BYTES`; the last one has what is left.
    """
    batch, size = list[Kind](), 0
    for candidate in source:
        batch.append(candidate)
        size += len(candidate.image) if isinstance(candidate, Item | Pair) else 0
        size += len(candidate.original or b"") if isinstance(candidate, Pair) else 0
        if len(batch) == length or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
