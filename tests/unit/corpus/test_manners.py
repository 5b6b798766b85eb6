"""Names of drawings taken apart: thing, manner, size."""

from __future__ import annotations

import pytest

from rag_diffusion.corpus.manners import Manners, without_number

PHOSPHOR = {"thin": "Thin", "": "Regular", "bold": "Bold", "duotone": "Duotone"}
SOLAR = {"bold": "Bold", "bold-duotone": "Bold Duotone", "linear": "Linear"}


def test_a_declared_ending_is_a_manner_where_the_set_has_the_thing_without_it() -> None:
    manners = Manners(["cup", "cup-bold", "text-bold"], PHOSPHOR, {})
    bold = manners.read("cup-bold")
    assert (bold.entity, bold.manner, bold.words) == ("cup", "bold", "bold")
    assert manners.read("cup").words == "regular"
    assert manners.read("text-bold").entity == "text-bold", "a letter in bold, drawn regularly"


def test_the_longest_ending_counts_and_a_set_without_a_plain_manner_needs_no_proof() -> None:
    reading = Manners(["cup-bold-duotone"], SOLAR, {}).read("cup-bold-duotone")
    assert (reading.entity, reading.manner, reading.words) == ("cup", "bold-duotone", "bold duotone")


def test_beginnings_are_manners_too() -> None:
    reading = Manners(["twotone-cup"], {}, {"twotone": "Two-Tone"}).read("twotone-cup")
    assert (reading.entity, reading.manner, reading.words) == ("cup", "twotone", "two tone")


def test_sizes_are_no_manner() -> None:
    fluent = Manners(["cup-20-filled", "cup-24-filled"], {"20-filled": "20 Filled", "24-filled": "24 Filled"}, {})
    small, usual = fluent.read("cup-20-filled"), fluent.read("cup-24-filled")
    assert (small.stem, small.manner, small.size) == ("cup", "filled", 20)
    assert (usual.stem, usual.manner, usual.words, usual.size) == ("cup", "filled", "filled", 24)
    solid = Manners(["cup", "cup-16-solid"], {"": "Outline 24x24", "16-solid": "Solid 16x16"}, {})
    assert (solid.read("cup-16-solid").manner, solid.read("cup-16-solid").words) == ("solid", "solid")


def test_an_ending_is_a_size_where_many_names_of_the_set_end_so() -> None:
    sized = Manners(["cup-16", "cup-24", "tea-16"], {}, {})
    assert (sized.read("cup-24").stem, sized.read("cup-24").size) == ("cup", 24)
    numbered = Manners(["cup-16", *(f"thing{chr(97 + i)}" for i in range(9))], {}, {})
    assert (numbered.read("cup-16").stem, numbered.read("cup-16").size) == ("cup-16", 0)


def test_an_undeclared_manner_needs_the_plain_drawing() -> None:
    others = [f"thing-{chr(97 + number // 9)}{number}{'-filled' * (number % 9 == 0)}" for number in range(90)]
    manners = Manners(["cup", "cup-filled", "blood-filled", "traffic", "traffic-light", *others], {}, {})
    assert manners.read("cup-filled").manner == "filled"
    assert manners.read("blood-filled").manner == ""
    assert manners.read("traffic-light").entity == "traffic-light"


def test_an_ending_that_many_names_have_is_a_manner_of_the_set() -> None:
    manners = Manners(["cup-line", "tea-line", "home-line", "cup", "home"], {}, {})
    assert (manners.read("tea-line").entity, manners.read("tea-line").words) == ("tea", "line")


@pytest.mark.parametrize(
    ("stem", "entity"),
    [
        ("coffee-cup", "coffee-cup"),
        ("coffee-cup-2", "coffee-cup"),
        ("baby-02", "baby"),
        ("folder2-open", "folder-open"),
        ("dice-4", "dice-4"),
        ("number-circle-9", "number-circle-9"),
        ("mp3", "mp3"),
        ("360", "360"),
    ],
)
def test_numbers_of_variants_go_and_numbers_that_are_shown_stay(stem: str, entity: str) -> None:
    assert without_number(stem) == entity
