from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from pydantic import ValidationError

from rag_diffusion.serving.bounded_json import MAX_FIELDS, MAX_VALUES, BodyError, parse_object
from rag_diffusion.serving.queries import FIELDS, KnnRequest, MetadataRequest, messages

MEBIBYTE = 2**20


def parsed(content: bytes) -> dict[str, Any]:
    return parse_object(content, FIELDS, ascii_alone="image")


def test_an_object_comes_as_json_says_and_what_no_door_knows_is_not_parsed() -> None:
    asked = {
        "text": "ein Kätzchen \U0001f63a",
        "embedding_input": [1, -2.5],
        "where": {"class": ["moon"]},
        "ids": [2**70],
    }

    assert parsed(json.dumps(asked | {"aesthetic_score": [1, [2]]}).encode()) == asked | {"aesthetic_score": None}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "0 bytes that are no JSON"),
        (b"[1]", "got `array`"),
        (b'{"text": "a"', "no JSON"),
        (b"[" * 100_000, "got `array`"),
        (b'{"where": ' + b"[" * 100_000, "recursion"),
        (b'{"unknown": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "recursion"),
        (b'{"text": "\\ud800"}', "no JSON"),
        (b'{"text": "\xff"}', "utf-8"),
        (b'{"embedding_input": [NaN]}', "no JSON"),
    ],
)
def test_what_is_no_json_object_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(BodyError, match=said) as caught:
        parsed(content)
    assert caught.value.status == 400
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"embedding_input": [' + b'"a",' * (5 * MEBIBYTE) + b'"a"]}', f"at most {MAX_VALUES} values"),
        (b'{"ignored": [' + b"1," * (10 * MEBIBYTE) + b"1]}", f"at most {MAX_VALUES} values"),
        (b'{"where": {"source": ["' + b"a" * 2 * MEBIBYTE + b'"]}}', "where: expected at most 1048576 bytes"),
        (b'{"text": "' + b"a" * 2 * MEBIBYTE + b'"}', "text: expected at most 120002 bytes"),
        (b'{"image": "' + b"a" * 50 * MEBIBYTE + b'"}', "image: expected at most"),
        (b'{"image": "' + b"a" * 30 * MEBIBYTE + "\U0001f63a".encode() + b'"}', "image: expected base64"),
        (b'{"' + b"k" * 30 * MEBIBYTE + b'": 1}', "names of at most 100 characters"),
        (b"{" + b",".join(b'"%d": 1' % number for number in range(MAX_FIELDS + 1)) + b"}", "at most 64 fields"),
    ],
    ids=["texts for numbers", "ignored numbers", "long name", "long text", "long image", "wide image", "key", "keys"],
)
def test_what_would_cost_is_refused_before_it_does(content: bytes, said: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BodyError, match=said) as caught:
            parsed(content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert caught.value.status in (413, 422)
    assert peak < len(content) + MEBIBYTE  # at most one copy; json.loads and pydantic take up to a hundred


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        (KnnRequest, {"embedding_input": ["a"] * 8_000}),
        (KnnRequest, {"text": "a", "exclude": [5] * 10_000}),
        (KnnRequest, {"text": "a", "where": {name: [5] * 1_000 for name in ("source", "class", "licence", "split")}}),
        (MetadataRequest, {"ids": ["x"] * 10_000}),
    ],
)
def test_of_many_errors_the_first_few_are_made_and_told(model: type[KnnRequest], asked: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(asked)

    assert caught.value.error_count() <= 4
    assert len(messages(caught.value.errors())) < 1000


def test_more_errors_than_are_told_are_counted() -> None:
    assert messages([{"loc": (number,), "msg": "bad" * 500} for number in range(9)]).endswith("; and 4 more")
