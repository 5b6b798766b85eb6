"""Texts that an index is tuned by, as people type them."""

from __future__ import annotations

import pyarrow as pa

from rag_diffusion.retrieval.short_texts import short_texts


def column(*texts: str) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(texts[:1]), pa.array(texts[1:])])


def test_the_title_is_what_is_asked_for() -> None:
    captions = column("an icon of a fox, Noto style", "an icon of a fox, Twemoji style", "an icon of a car, Noto style")
    first, second, third = short_texts(captions, column("fox", "fox", "car"), 10)
    assert (first, third) == ("fox", "car")
    assert second in captions[1].as_py() or set(second.split()) < set(captions[1].as_py().split())
    assert len(second.split()) == 3, "half of the words where the title was asked for before"
    assert short_texts(captions, column("fox", "fox", "car"), 2) == ["fox", "car"]  # evenly spread: first and last


def test_of_a_caption_without_a_title_half_of_the_words_is() -> None:
    captions = ["a red fox in deep snow", "boats", "  ", "two dogs"]
    short = short_texts(column(*captions), column("a red fox in deep snow", "", "", "two dogs"), 10)
    assert len(short) == 3
    for caption, text in zip(("a red fox in deep snow", "boats", "two dogs"), short, strict=True):
        words = caption.split()
        kept = text.split()
        assert len(kept) == max(1, len(words) // 2)
        assert kept == [word for word in words if word in kept]  # in their order
    assert short == short_texts(column(*captions), column("a red fox in deep snow", "", "", "two dogs"), 10)
