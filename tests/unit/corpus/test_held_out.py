"""Held-out entities found by words and by code points."""

from __future__ import annotations

import pytest

from rag_diffusion.corpus.held_out import EntityNames, HeldOutMatch, HeldOutNames

VOCABULARY = {"fish", "taco", "truck", "apple", "red", "cherry", "blossom", "buds", "ear", "knife", "kitchen"}
HELD_OUT = HeldOutNames(
    {
        "1f32e": EntityNames(full=("taco",)),
        "1f34e": EntityNames(full=("red apple",)),
        "1f338": EntityNames(full=("cherry blossom",)),
        "2615": EntityNames(full=("hot beverage",), also=("espresso",), hints=("coffee",)),
        "1f442": EntityNames(full=("ear",)),
        "1f52a": EntityNames(full=("kitchen knife", "hocho")),
        "1f611": EntityNames(full=("face",)),
        "1f94f": EntityNames(full=("flying disc",)),
    },
    weak={"red", "hot", "face"},
    vocabulary=VOCABULARY,
)


@pytest.mark.parametrize(
    ("name", "entity"),
    [
        ("taco", "1f32e"),
        ("tacos", "1f32e"),
        ("taco-truck", "1f32e"),
        ("fishtaco", "1f32e"),
        ("ta-co", "1f32e"),
        ("red-apple", "1f34e"),
        ("apples", "1f34e"),
        ("blossom-of-cherry", "1f338"),
        ("cherryblossom", "1f338"),
        ("coffee", "2615"),
        ("beverage", "2615"),
        ("double-espresso-cup", "2615"),
        ("earbuds", "1f442"),
        ("knives-kitchen", "1f52a"),
        ("hocho", "1f52a"),
        ("smiling-face", "1f611"),
    ],
)
def test_words_find_a_held_out_entity(name: str, entity: str) -> None:
    found = HELD_OUT.by_words([name])
    assert found is not None
    assert found.entity == entity


@pytest.mark.parametrize("name", ["search", "pear", "cherry", "coffee-machine", "red", "knife", "tac", "disk"])
def test_words_leave_other_things_alone(name: str) -> None:
    assert HELD_OUT.by_words([name]) is None


def test_a_full_name_goes_before_a_part_of_one() -> None:
    assert HELD_OUT.by_words(["taco-truck", "red-apple"]) == HeldOutMatch(entity="1f34e", exact=True, alone=True)
    assert HELD_OUT.by_words(["taco-truck"]) == HeldOutMatch(entity="1f32e", exact=False, alone=False)
    assert HELD_OUT.by_words(["red-tacos"]) == HeldOutMatch(entity="1f32e", exact=False, alone=True)
    assert HELD_OUT.by_words(["coffee"]) == HeldOutMatch(entity="2615", exact=False, alone=False)
    assert HELD_OUT.by_words(["espressos"]) == HeldOutMatch(entity="2615", exact=False, alone=True)


@pytest.mark.parametrize("name", ["1f32e", "u1f32e", "U+1F32E", "emoji-u1f32e", "emoji_u1f32e", "1F32E-FE0F"])
def test_code_points_find_a_held_out_entity(name: str) -> None:
    assert HELD_OUT.by_code_point([name]) == "1f32e"


def test_a_sets_table_of_characters_counts() -> None:
    assert HELD_OUT.by_code_point(["thing"], ["1f32e"]) == "1f32e"
    assert HELD_OUT.by_code_point(["thing"], ["1f32f"]) is None
    assert HELD_OUT.by_code_point(["face", "decade", "beef"]) is None
