"""Batches of candidates."""

from __future__ import annotations

from dataclasses import replace

from rag_diffusion.readers.batches import in_batches
from rag_diffusion.readers.records import Rejection
from tests.unit.knowledge.bases import items


def test_a_batch_of_large_files_is_small() -> None:
    large = [replace(one, image=b"x" * 2**23) for one in items(range(5))]
    small = [*items(range(38)), Rejection(what="a", reason="b")]

    assert [len(batch) for batch in in_batches(large, 8)] == [2, 2, 1]
    batches = list(in_batches(small, 8))
    assert [len(batch) for batch in batches] == [8, 8, 8, 8, 7]
    assert [one for batch in batches for one in batch] == small
