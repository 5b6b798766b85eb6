from __future__ import annotations

import hashlib
from typing import Any

import pytest
from pydantic import ValidationError

from rag_diffusion.clip_protocol import text_query
from rag_diffusion.serving.queries import KnnRequest, global_id, messages


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
