"""What the words of a query and a caption say for a hit."""

from __future__ import annotations

import numpy as np
import pytest

from rag_diffusion.retrieval.evidence import FEATURES, Evidence, phrases, style_tokens
from rag_diffusion.retrieval.lexical import LexicalIndex

STYLES = {"noto": "Noto", "noto-v1": "classic Noto"}
CAPTIONS = [
    "a taxi, Noto style",
    "an oncoming taxi, Noto style",
    "a laptop in classic Noto style",
    "umbrella emoji, Noto",
]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a sticker for my laptop that shows an oncoming taxi, Noto style",
         [("sticker", False), ("laptop", True), ("oncoming taxi", False)]),
        ("umbrella with rain drops", [("umbrella rain drop", False)]),
        ("what would a small taxi look like if Noto had drawn it?", [("taxi", False)]),
        ("two of them on a table: taxi", [("table", True), ("taxi", False)]),
        ("ein roter Apfel, gemalt", [("ein roter apfel", False), ("gemalt", False)]),
        ("in Noto style", []),
        ("", []),
    ],
)  # fmt: skip
def test_a_query_is_cut_at_function_words_marks_and_styles(text: str, found: list[tuple[str, bool]]) -> None:
    told = [(phrase.words, phrase.circumstance) for phrase in phrases(text, style_tokens(STYLES))]
    assert told == [(frozenset(words.split()), circumstance) for words, circumstance in found]


def shares(query: str) -> dict[str, dict[str, float]]:
    evidence = Evidence(LexicalIndex.build(CAPTIONS), STYLES)
    table = evidence.features(query, CAPTIONS, np.zeros(4), np.zeros(4))
    return {
        caption.split(",")[0]: dict(zip(FEATURES, row, strict=True))
        for caption, row in zip(CAPTIONS, table, strict=True)
    }


def test_a_caption_that_lacks_a_word_of_the_phrase_has_less_of_it() -> None:
    told = shares("an oncoming taxi at night, Noto style")
    assert told["an oncoming taxi"]["phrase_share"] == told["an oncoming taxi"]["caption_share"] == 1
    assert told["a taxi"]["caption_share"] == 1
    assert told["a taxi"]["phrase_share"] < 0.6
    assert told["a taxi"]["phrase_share_squared"] == pytest.approx(told["a taxi"]["phrase_share"] ** 2)
    assert told["umbrella emoji"]["caption_share"] == told["umbrella emoji"]["phrase_share"] == 0


def test_what_stands_behind_a_preposition_is_a_circumstance() -> None:
    told = shares("a taxi for my laptop")
    assert told["a laptop in classic Noto style"]["circumstance_share"] == 1
    assert told["a taxi"]["circumstance_share"] == 0


def test_words_that_no_caption_has_count_as_the_rarest() -> None:
    evidence = Evidence(LexicalIndex.build(CAPTIONS), STYLES)
    assert evidence.information("zebra") == pytest.approx(np.log(4.5 / 0.5))
    assert evidence.information("Noto style") == 0
    assert evidence.information("oncoming zebra") > evidence.information("zebra")


def test_an_unknown_word_before_the_last_is_an_adjective() -> None:
    lucky, other = shares("a lucky umbrella in Noto style"), shares("an umbrella blorptang in Noto style")
    assert 0.75 < lucky["umbrella emoji"]["phrase_share"] < 1
    assert other["umbrella emoji"]["phrase_share"] < 0.6
    assert shares("an oncoming umbrella")["umbrella emoji"]["phrase_share"] < 0.6  # captions know what is oncoming


def test_a_colour_that_nobody_asked_for_says_little_against_a_caption() -> None:
    captions = ["a red apple, Noto style", "a tin of apple juice, Noto style", "an orange in Noto style", "a red sky"]
    evidence = Evidence(LexicalIndex.build(captions), STYLES)

    def caption_share(query: str) -> list[float]:
        table = evidence.features(query, captions, np.zeros(4), np.zeros(4))
        return [dict(zip(FEATURES, row, strict=True))["caption_share"] for row in table]

    apple, juice, orange, sky = caption_share("an apple")
    assert apple > 0.85
    assert juice < 0.5
    assert orange == sky == 0
    assert caption_share("a red apple")[0] == 1
    assert caption_share("a red thing")[0] < 0.7, "the colour alone is not the thing"
    assert caption_share("an orange")[2] == 1, "here it is the thing"


def test_cosines_are_told_in_deviations_of_the_querys_own(rng: np.random.Generator) -> None:
    evidence = Evidence(LexicalIndex.build(CAPTIONS), STYLES)
    pool = np.append(np.linspace(0.2, 0.8, 200), np.full(500, -1.0))  # the last 500 are none of the best
    told = evidence.features("taxi", CAPTIONS[:2], np.array([0.8, 0.5]), rng.permutation(pool))
    best = pool[:200]
    expected = (np.array([0.8, 0.5]) - best.mean()) / best.std()
    np.testing.assert_allclose(told[:, FEATURES.index("cosine_deviations")], expected, rtol=1e-4, atol=1e-9)
