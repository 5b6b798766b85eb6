"""Which part of a text is the caption, and captions that are hardly what one picture shows."""

from __future__ import annotations

import pytest

from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.readers.caption_text import Doubts, check_choice, choose, scripts

MANY = "a red kangaroo\nein rotes Riesenkänguru\nкрасный кенгуру\n"
MARKED = "de: ein Apfel\nen: an apple\npt-BR: uma maçã\n"


def test_the_first_line_all_of_it_or_the_line_of_a_language() -> None:
    assert choose(MANY, "first-line") == "a red kangaroo"
    assert choose("\n\n  a cat  \nmore", "first-line").strip() == "a cat"
    assert choose(MANY, "all") == MANY
    assert choose(MARKED, "en") == "an apple"
    assert choose(MARKED, "pt_br") == "uma maçã"
    assert choose("[en] an apple\n[de] ein Apfel", "de") == "ein Apfel"
    assert choose(MARKED, "first-line") == "ein Apfel", "its mark is no part of it"
    assert choose("on: a light switch", "first-line") == "on: a light switch"
    assert choose("", "en") == ""


def test_a_language_that_is_not_there_is_a_reason() -> None:
    with pytest.raises(
        DataError, match=r"no caption in fr: expected a line that begins with 'fr', got 'de: ein Apfel'"
    ):
        choose(MARKED, "fr")
    with pytest.raises(ConfigError, match="expected first-line, all or a language such as en, got 'second'"):
        check_choice("second")
    assert [check_choice(one) for one in ("all", "en", "zh-Hans")] == ["all", "en", "zh-Hans"]


def test_scripts_that_are_written_together_are_one() -> None:
    assert scripts("a Käse 42!") == {"LATIN"}
    assert scripts("赤いカンガルーです") == {"CJK"}
    assert len(scripts("a red кенгуру καγκουρό")) == 3


def test_doubtful_captions_are_counted_with_an_example() -> None:
    doubts = Doubts()
    doubts.look("a.png", "a cat", "a cat")
    assert doubts.sentences() == []
    doubts.look("b.png", MANY, MANY.splitlines()[0])
    doubts.look("c.png", "x" * 400, "x" * 400)
    doubts.look("d.png", "a красный καγκουρό", "a красный καγκουρό")
    told = doubts.sentences()
    assert [sentence.split(",")[0] for sentence in told] == [
        "1 of 4 captions are one line of several",
        "1 of 4 captions are longer than 300 characters",
        "1 of 4 captions are of several scripts",
    ]
    assert "b.png: 'a red kangaroo'" in told[0]
    assert all(
        "choose another part of the texts: caption first-line, all or a language such as en" in one for one in told
    )
