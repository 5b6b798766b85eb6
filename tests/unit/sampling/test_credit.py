"""What licences ask, in words: one function for the command, the page, provenance and credentials."""

from __future__ import annotations

import json

import pytest

from rag_diffusion.sampling.credit import Terms, credit, terms_of
from rag_diffusion.sampling.provenance import Provenance, Source


def source(name: str, licence: str, attribution: str = "") -> Source:
    return Source(
        pair_id=f"set/{name}", caption=name, source="set", licence=licence, attribution=attribution, score=None,
        attention=0.1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("licence", "asked"),
    [
        ("CC0-1.0", ""),
        ("Public Domain", ""),
        ("Unlicense", ""),
        ("MIT", "attribution"),
        ("MIT-0", ""),
        ("Apache-2.0", "attribution"),
        ("CC-BY-4.0", "attribution"),
        ("CC BY 4.0", "attribution"),
        ("cc_by_nc_sa_4.0", "attribution non_commercial share_alike"),
        ("CC-BY-ND-4.0", "attribution no_derivatives"),
        ("GPL-3.0-only", "attribution share_alike"),
        ("MIT AND CC-BY-NC-4.0", "attribution non_commercial"),
        ("free for non-commercial use", "non_commercial"),
    ],
)
def test_what_a_licence_asks_is_told_from_its_name(licence: str, asked: str) -> None:
    assert terms_of(licence) == Terms(known=True, **dict.fromkeys(asked.split(), True))


@pytest.mark.parametrize("licence", ["", "unspecified", "my own words", "other"])
def test_nothing_is_guessed_of_other_words(licence: str) -> None:
    assert terms_of(licence) == Terms(known=False)


def test_each_author_is_named_once_with_the_line_to_use() -> None:
    pairs = [
        source("a", "CC-BY-4.0", "Ada"), source("b", "CC-BY-4.0", "Ada"), source("c", "CC-BY-NC-4.0", "Bob"),
        source("d", "unspecified", "unspecified"),
    ]  # fmt: skip
    assert credit(pairs) == [
        "No commercial use: CC-BY-NC-4.0 (Bob).",
        "Name the author wherever the picture is shown: CC-BY-4.0 (Ada); CC-BY-NC-4.0 (Bob).",
        "Licence unknown, ask before use: unspecified (set).",
        "Credit: Ada (CC-BY-4.0); Bob (CC-BY-NC-4.0); set (unspecified).",
    ]
    assert credit([]) == []


def test_provenance_says_it_and_reads_it_over() -> None:
    origin = Provenance(
        prompt="draw", seed=3, corpus_hash="c", model_hash="m", neighbors=(source("a", "CC-BY-4.0", "Ada"),),
        null_attention=0.25,
    )  # fmt: skip
    content = json.loads(origin.as_json())
    assert content["credit"][-1] == "Credit: Ada (CC-BY-4.0)."
    assert Provenance.from_dict(content) == origin
