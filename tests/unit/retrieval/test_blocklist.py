"""Pairs that are on a blocklist are found by nothing: words, vectors, manner, image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rag_diffusion.retrieval.blocklist import Blocklist
from rag_diffusion.retrieval.query import Query
from tests.unit.knowledge.bases import items, make_base


@pytest.mark.parametrize(
    ("word", "text", "blocked"),
    [
        ("gun", "Guns of steel", True),
        ("gun", "a gunter", False),
        ("café", "a CAFE", True),
        ("water pistol", "water, then a pistol", False),
        ("日本", "日本の旗", True),
        ("", "anything", False),
    ],
)
def test_words_are_whole_ones_in_any_writing(word: str, text: str, blocked: bool) -> None:
    assert bool(Blocklist(words=(word,)).reasons([text])[0]) == blocked


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("base")
    make_base(root).add("things", items(range(60)), licence="CC0-1.0")
    return root


def captions(root: Path, query: Query, **safety: object) -> list[str]:
    base = make_base(root, safety=safety)
    results = base.search(query)
    found = [name for hits in (*results.hits, *results.style) for name in hits.pair_ids]
    return base.corpus.cells("caption", base.corpus.rows(found))


def test_blocked_pairs_are_not_retrieved(root: Path) -> None:
    red = Query(["a red fox", "a red apple"], top_k=20)
    assert any("red" in caption for caption in captions(root, red))
    assert len(captions(root, red)) == len(captions(root, red, words=["RED"]))
    assert not any("red" in caption for caption in captions(root, red, words=["RED"]))
    foxes = captions(root, red, concepts=["a fox"], concept_cosine=0.4)
    assert foxes
    assert not any("fox" in caption for caption in foxes)


def test_nothing_is_found_where_all_is_blocked(root: Path) -> None:
    assert captions(root, Query(["a red fox"], top_k=3), words=["number"]) == []


def test_style_neighbors_are_none_of_them(root: Path) -> None:
    examples = np.zeros((1, 32, 32, 3), np.uint8)
    query = Query(["a boat"], top_k=1, style_top_k=30, style_images=examples)
    assert any("red" in caption for caption in captions(root, query))
    assert not any("red" in caption for caption in captions(root, query, words=["red"]))
