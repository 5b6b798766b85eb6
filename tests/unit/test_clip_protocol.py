"""Images as base64, as clip-retrieval sends them."""

from __future__ import annotations

import base64

import pytest

from rag_diffusion.clip_protocol import decode_base64
from rag_diffusion.errors import DataError


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
