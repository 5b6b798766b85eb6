from __future__ import annotations

import time

import pytest

from rag_diffusion.retrieval.tokens import LONGEST, readable, tokenize


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A Red Apple, Noto-style", ["red", "apple", "noto", "style"]),
        ("two of them on the tables", ["two", "table"]),
        ("Piñatas", ["pinata"]),
        ("cherries dresses glass octopus bus", ["cherry", "dresse", "glass", "octopus", "bus"]),
        ("to the it", ["to", "the", "it"]),
        ("", []),
        ("東京タワー、犬", ["東京", "京タ", "タワ", "ワー", "犬"]),
        ("red苹果apple猫", ["red", "苹果", "apple", "猫"]),
        ("แอปเปิ้ล", ["แอ", "อป", "ปเ", "เปิ้", "ปิ้ล"]),
        ("빨간 사과", ["빨간", "사과"]),
        ("लाल सेब हिंदी", ["लाल", "सेब", "हिंदी"]),
        ("תַּפּוּחַ", ["תפוח"]),
        ("تُفَّاحَة حَمْراء", ["تفاحه", "حمراء"]),
        ("ISPARTA ısparta İstanbul", ["isparta", "isparta", "istanbul"]),
        ("Straße ŁÓDŹ Tromsø", ["strasse", "lodz", "tromso"]),
        ("Ёжик ежик йод", ["ежик", "ежик", "йод"]),
        ("ＦＵＬＬ", ["full"]),
        ("ap\u00adple \u200fred\u200e ❤️ heart", ["apple", "red", "heart"]),
        ("ap\0ple\x07box\x1b", ["ap", "ple", "box"]),
        ("\ud800 lone", ["lone"]),
    ],
)
def test_words_of_a_text(text: str, words: list[str]) -> None:
    assert tokenize(text) == words


@pytest.mark.parametrize(("one", "other"), [("が", "か"), ("कि", "कु"), ("กา", "กี"), ("й", "и")])
def test_marks_that_are_letters_keep_words_apart(one: str, other: str) -> None:
    assert tokenize(one) != tokenize(other)


@pytest.mark.parametrize("one", ["a", "é", "犬", "é ", " ", "\0", "\u0301", "犬\u0301", "\u0e49", "a and b, "])
def test_a_hundred_kilobytes_of_anything_take_no_time(one: str) -> None:
    start = time.perf_counter()
    words = tokenize(one * (100_000 // len(one)))
    assert time.perf_counter() - start < 2
    assert max(map(len, words), default=0) <= 2 * LONGEST


def test_a_readable_query_is_left_alone_and_another_becomes_one() -> None:
    assert readable("a  fox\0") == "a  fox\0"
    assert readable("a \ud800 fox") == "a ? fox"
    assert readable("fox" + " " * 100_000 + "box") == "fox box"
    assert len(readable("fox" * 100_000)) == 10_000
