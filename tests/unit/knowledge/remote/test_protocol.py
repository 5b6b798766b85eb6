from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from pydantic import ValidationError

from rag_diffusion.errors import DataError
from rag_diffusion.knowledge.remote.protocol import KnnRequest, decode_base64, global_id, messages, text_query
from rag_diffusion.knowledge.remote.results import KnnResult, parse_indices, parse_results
from rag_diffusion.readers.records import Rejection

GOOD = {"id": 7, "similarity": 0.5, "caption": "a cat", "url": "http://a/b.png"}


def parsed(**change: Any) -> KnnResult | Rejection:
    return next(iter(parse_results([GOOD | change], 10)))


def test_a_global_id_is_the_first_63_bits_of_the_sha256() -> None:
    bits = f"{int(hashlib.sha256(b'photos/a.png').hexdigest(), 16):0256b}"

    assert global_id("photos/a.png") == int(bits[:63], 2)
    assert all(0 <= global_id(str(number)) < 2**63 for number in range(1000))


def test_the_query_that_is_first_in_their_order_counts_and_empty_ones_do_not() -> None:
    found = KnnRequest.model_validate({"text": " ", "image": "", "image_url": "http://a", "modality": "text"})

    assert (found.text, found.image, found.image_url, found.modality) == (None, None, "http://a", "text")


def test_ids_alone_follow_the_number_of_images_where_nothing_is_said() -> None:
    assert KnnRequest(text="a", num_images=3).num_results == 3
    assert KnnRequest(text="a", num_images=3, num_result_ids=9).num_results == 9


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "expected one of text, image, image_url and embedding_input, got none"),
        ({"text": "a", "modality": "sound"}, "modality: Input should be 'image' or 'text'"),
        ({"text": "a", "num_images": -1}, "num_images"),
        ({"text": "a", "num_images": 10**9}, "num_images"),
        ({"text": "a" * 10_001}, "text"),
        ({"text": 5}, "text: Input should be a valid string"),
        ({"embedding_input": []}, "embedding_input"),
        ({"embedding_input": [0.0, 0.0]}, "not all zero"),
        ({"embedding_input": [1.0, float("nan")]}, "finite"),
        ({"embedding_input": ["a"]}, "embedding_input.0"),
        ({"text": "a", "where": {"colour": ["red"]}}, "where.colour"),
    ],
)
def test_a_query_that_is_none_says_where_and_why(body: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        KnnRequest.model_validate(body)

    assert said in messages(caught.value.errors())


def test_our_own_query_is_one_that_a_server_of_the_protocol_takes() -> None:
    found = KnnRequest.model_validate(text_query("a cat", index=None, top_k=5))

    assert (found.text, found.num_images, found.num_results, found.with_images) == ("a cat", 5, 5, True)


@pytest.mark.parametrize("before", ["", "data:image/png;base64,"])
def test_base64_is_decoded_with_or_without_a_data_head(before: str) -> None:
    text = base64.encodebytes(bytes(range(200))).decode()

    assert decode_base64(before + text, "image", 200) == bytes(range(200))


@pytest.mark.parametrize(
    ("text", "said"), [("?!", "not base64"), ("", "empty image"), ("A" * 400, "too large"), ("é", "not")]
)
def test_what_is_no_base64_says_so(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        decode_base64(text, "image", 200)


def test_a_good_entry_is_taken_with_what_it_tells() -> None:
    assert parsed(licence="CC0", title="cat", height=5) == KnnResult(
        key=7, similarity=0.5, caption="a cat", url="http://a/b.png", image="", words={"licence": "CC0", "title": "cat"}
    )
    assert parsed(license="MIT") == parsed(licence="MIT")


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"id": None}, "malformed id"),
        ({"id": "7"}, "malformed id"),
        ({"id": True}, "malformed id"),
        ({"id": 2**70}, "malformed id"),
        ({"similarity": "high"}, "malformed similarity"),
        ({"similarity": float("nan")}, "malformed similarity"),
        ({"similarity": float("inf")}, "malformed similarity"),
        ({"similarity": 10**400}, "malformed similarity"),
        ({"caption": None}, "malformed caption"),
        ({"caption": " \n"}, "malformed caption"),
        ({"caption": ["a"]}, "malformed caption"),
        ({"caption": "a" * 100_001}, "malformed caption"),
        ({"caption": "\ud800"}, "malformed text"),
        ({"url": None}, "malformed url"),
        ({"url": "javascript:alert(1)"}, "malformed url"),
        ({"url": "file:///etc/passwd"}, "malformed url"),
        ({"url": {"a": 1}}, "malformed url"),
        ({"url": "", "image": 5}, "malformed url"),
    ],
)
def test_a_malformed_entry_is_rejected_by_itself(change: dict[str, Any], kind: str) -> None:
    bad, good = parse_results([GOOD | change, GOOD | {"id": 8}], 10)

    assert isinstance(bad, Rejection)
    assert bad.kind == kind
    assert isinstance(good, KnnResult)


@pytest.mark.parametrize("entry", [None, 5, "a", []])
def test_an_entry_that_is_no_object_is_rejected(entry: Any) -> None:
    (bad,) = parse_results([entry], 10)

    assert isinstance(bad, Rejection)
    assert bad.kind == "malformed result"


def test_an_id_twice_and_more_results_than_asked_for_are_counted() -> None:
    found = list(parse_results([GOOD, GOOD, GOOD | {"id": 8}, GOOD | {"id": 9}], 3))

    assert [type(one).__name__ for one in found] == ["KnnResult", "Rejection", "KnnResult", "Rejection"]
    assert [one.kind for one in found if isinstance(one, Rejection)] == ["malformed id", "too many"]


@pytest.mark.parametrize("answer", [None, 5, "ok", {"message": "Internal Server Error"}, {"error": "no such index"}])
def test_an_answer_that_is_no_list_is_an_error_with_its_message(answer: Any) -> None:
    with pytest.raises(DataError, match="expected a list of results") as caught:
        list(parse_results(answer, 10))

    if isinstance(answer, dict):
        assert next(iter(answer.values())) in str(caught.value)


@pytest.mark.parametrize("answer", [None, [], {}, [1], [""], "all"])
def test_index_names_that_are_none_are_an_error(answer: Any) -> None:
    with pytest.raises(DataError, match="index names"):
        parse_indices(answer)
