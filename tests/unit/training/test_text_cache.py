from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from rag_diffusion.models.text_encoder import TextEncoder, TextFeatures
from rag_diffusion.training.text_cache import TextCache

CPU = torch.device("cpu")


class Counting:
    """An encoder that notes what it encodes: each text as its length."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: Sequence[str]) -> TextFeatures:
        self.asked += texts
        lengths = torch.tensor([float(len(text)) for text in texts])
        return TextFeatures(lengths[:, None, None].expand(-1, 4, 8), torch.ones(len(texts), 4, dtype=torch.int64))

    def to(self, device: torch.device | str) -> None:
        pass


BYTES = 4 * 8 * 2 + 4 * 8  # of one text


def test_a_text_is_encoded_once_and_rows_are_those_of_the_texts() -> None:
    encoder = Counting()
    cache = TextCache(encoder)
    for _ in range(2):
        found = cache(["aa", "b", "aa"], CPU)
        assert found.states[:, 0, 0].tolist() == [2.0, 1.0, 2.0]
        assert found.states.dtype is torch.float32
    assert encoder.asked == ["aa", "b"]


def test_memory_is_bounded_and_what_was_not_asked_for_goes_first() -> None:
    encoder = Counting()
    cache = TextCache(encoder, max_bytes=3 * BYTES)
    cache(["a", "bb", "ccc"], CPU)
    cache(["a"], CPU)
    cache(["dddd"], CPU)
    assert len(cache) == 3
    encoder.asked.clear()
    cache(["a", "ccc", "dddd"], CPU)
    assert encoder.asked == []
    cache(["bb"], CPU)
    assert encoder.asked == ["bb"]


def test_a_batch_larger_than_the_bound_is_whole() -> None:
    cache = TextCache(Counting(), max_bytes=BYTES)
    texts = [letter * number for number, letter in enumerate("abcdef", start=1)]
    assert cache(texts, CPU).states[:, 0, 0].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    cache(["a"], CPU)
    assert len(cache) == 1


@pytest.mark.parametrize(("bound", "kept"), [(10**9, 300), (64 * BYTES, 64)])
def test_what_is_encoded_ahead_stops_where_there_is_no_room(bound: int, kept: int) -> None:
    encoder = Counting()
    cache = TextCache(encoder, max_bytes=bound)
    cache.remember([f"text {number}" for number in range(300)], CPU)
    assert len(cache) == len(encoder.asked) == kept


def test_features_are_those_of_the_encoder(text_encoder: TextEncoder) -> None:
    texts = ["a red circle", "a fox"]
    found, expected = TextCache(text_encoder)(texts, CPU), text_encoder(texts)
    torch.testing.assert_close(found.states, expected.states, atol=2e-3, rtol=2e-3)
