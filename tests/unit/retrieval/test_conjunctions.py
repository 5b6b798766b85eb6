"""Prompts that name several things."""

from __future__ import annotations

import pytest

from rag_diffusion.retrieval.conjunctions import one_thing, take_turns, things
from rag_diffusion.retrieval.query import Query
from rag_diffusion.retrieval.retriever import Retriever
from rag_diffusion.types import Hits


@pytest.mark.parametrize(
    ("text", "queries"),
    [
        ("a fox and a hammer in Noto style", ["a fox in Noto style", "a hammer in Noto style"]),
        ("Noto emoji of a fox and a hammer", ["Noto emoji of a fox", "Noto emoji of a hammer"]),
        ("fox and red hammer, Noto style", ["fox, Noto style", "red hammer, Noto style"]),
        ("a fox, a hammer and a boat in Noto style", [f"a {x} in Noto style" for x in ("fox", "hammer", "boat")]),
        ("draw a fox & two hats the way it is", ["draw a fox the way it is", "draw two hats the way it is"]),
        ("a fox next to a hammer", ["a fox", "a hammer"]),
        ("two of them on a table: fox, as Noto paints them", []),
        ("a cat with tears of joy, Noto style", []),
        ("a small fox, a red one", []),
        ("and and", []),
        ("fox and", []),
        ("", []),
    ],
)  # fmt: skip
def test_things_that_a_text_names(text: str, queries: list[str]) -> None:
    assert [thing.query for thing in things(text)] == queries


def test_a_caption_with_words_of_both_sides_names_one_thing() -> None:
    bow = things("a bow and arrow")
    assert one_thing(bow, ["bow and arrow, Noto"])
    assert not one_thing(bow, ["red bow, Noto", "right arrow, Noto"])
    assert not one_thing(things("a red square and a blue ring"), ["a red ring", "a blue square"])


def test_hits_take_turns_and_none_comes_twice() -> None:
    first = Hits(pair_ids=("a", "b", "c"), scores=(0.9, 0.8, 0.7), parts={"bm25": (0.9, 0.8, 0.7)})
    second = Hits(pair_ids=("d", "a"), scores=(0.6, 0.5), parts={"bm25": (0.6, 0.5)})
    assert take_turns([first, second], 4).pair_ids == ("a", "d", "b", "c")
    assert take_turns([second, first], 3) == Hits(
        pair_ids=("d", "a", "b"), scores=(0.6, 0.9, 0.8), parts={"bm25": (0.6, 0.9, 0.8)}
    )
    assert take_turns([], 3).pair_ids == ()


def test_a_search_for_two_things_finds_both(retriever: Retriever) -> None:
    excluded = "tiny/noto/red-square"
    prompt = "red square and blue ring, noto style"
    together, without = (
        retriever.search(Query([prompt, "green moon"], top_k=4, exclude=exclude)).hits[0]
        for exclude in (None, [[excluded], []])
    )  # fmt: skip
    table = retriever.corpus.table.set_index("pair_id")
    for hits in (together, without):
        shown = [table.loc[name, "title"] for name in hits.pair_ids]
        assert shown == ["red square", "blue ring", "red square", "blue ring"]
        assert len(hits.scores) == len(hits.parts["bm25"]) == 4
    assert excluded in together.pair_ids
    assert excluded not in without.pair_ids
