from __future__ import annotations

import time

import pytest

from rag_diffusion.spans import recording, span


def test_parts_are_nested_as_they_were_opened_and_timed() -> None:
    with recording("sample", prompt="a red apple") as root:
        with span("retrieve", "RETRIEVER", top_k=3) as part, span("embed", "EMBEDDING"):
            time.sleep(0.01)
            part.outputs = ["apple"]
        with span("denoise"):
            pass

    assert (root.name, root.inputs) == ("sample", {"prompt": "a red apple"})
    assert [(child.name, child.kind) for child in root.children] == [("retrieve", "RETRIEVER"), ("denoise", "CHAIN")]
    retrieve = root.children[0]
    assert (retrieve.inputs, retrieve.outputs) == ({"top_k": 3}, ["apple"])
    assert [child.name for child in retrieve.children] == ["embed"]
    assert root.seconds >= retrieve.seconds >= retrieve.children[0].seconds >= 0.01
    assert root.start <= retrieve.start
    assert retrieve.end <= root.end


def test_outside_of_a_recording_nothing_is_kept() -> None:
    with span("retrieve") as part:
        part.outputs = 1
    with recording("later") as root:
        pass

    assert root.children == []
    assert part.start == part.end == 0


def test_an_error_ends_the_spans_that_are_open() -> None:
    with recording("outer") as root, pytest.raises(ValueError, match="boom"), span("inner"):
        raise ValueError("boom")
    with recording("next") as other, span("part"):
        pass

    assert root.children[0].end > 0
    assert [child.name for child in other.children] == ["part"]
