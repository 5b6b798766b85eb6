"""Our BM25 against rank_bm25 itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rank_bm25 import BM25Okapi

from rag_diffusion.retrieval import postings
from rag_diffusion.retrieval.counts import TermCounts
from rag_diffusion.retrieval.lexical import LexicalIndex, RankBm25
from rag_diffusion.retrieval.tokens import tokenize

WORDS = [
    "apple",
    "pear",
    "cat",
    "dog",
    "red",
    "blue",
    "box",
    "tree",
    "sun",
    "style",
    "noto",
    "moon",
]


def texts(rng: np.random.Generator, count: int, longest: int) -> list[str]:
    """Texts in which `style` stands in most documents (negative idf) and `tree` in exactly half."""
    made = []
    for number in range(count):
        words = [*rng.choice(WORDS[:7], size=rng.integers(1, longest)), f"rare{number}"]
        words += ["style"] * (number % 10 != 0) + ["tree"] * (number % 2)
        made.append(" ".join(words))
    return made


def test_scores_equal_rank_bm25(rng: np.random.Generator) -> None:
    documents, queries = texts(rng, 200, 9), [*texts(rng, 50, 6), "zebra", "apple apple zebra"]
    reference = BM25Okapi([tokenize(text) for text in documents])
    assert reference.idf["tree"] == 0  # the two cases that other BM25s treat differently
    assert 0 < reference.idf["style"] == 0.25 * reference.average_idf
    expected = np.stack([reference.get_scores(tokenize(query)) for query in queries])
    ours = LexicalIndex.build(documents).scores(queries)
    assert expected.max() > 1
    np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize("k", [1, 10, 150, 400])
def test_the_best_hits_are_rank_bm25s_with_ties_by_number(
    rng: np.random.Generator, k: int, few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if few:  # entries alone are read, as of rare terms
        monkeypatch.setattr(postings, "_FREQUENT", 0.01)
    documents = texts(rng, 300, 9)
    documents += documents[:60]  # ties
    queries = [*texts(rng, 60, 6), "zebra", "style", "style tree", "rare7 style tree red", "apple apple zebra", ""]
    ours, reference = LexicalIndex.build(documents), RankBm25(documents)
    for query in queries:
        rows, scores = ours.top(query, k)
        expected, values = reference.top(query, k)
        np.testing.assert_array_equal(rows, expected, err_msg=query)
        np.testing.assert_allclose(scores, values, atol=1e-9)
        order = np.lexsort((np.arange(len(documents)), -np.round(ours.scores([query])[0], 9)))
        np.testing.assert_array_equal(rows, order[: len(rows)], err_msg=query)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_rows_that_may_not_come_do_not_and_others_take_their_place(rng: np.random.Generator, share: float) -> None:
    documents = texts(rng, 300, 9)
    ours, reference = LexicalIndex.build(documents), RankBm25(documents)
    may = rng.random(300) < share
    for query in texts(rng, 40, 6):
        rows, _ = ours.top(query, 10, lambda some: may[some])
        assert may[rows].all()
        np.testing.assert_array_equal(rows, reference.top(query, 10, lambda some: may[some])[0])


def test_negative_weights_of_a_tiny_corpus_are_kept() -> None:
    documents = ["apple pear", "apple", "apple pear", "apple pear dog"]
    model = BM25Okapi([tokenize(text) for text in documents])
    assert min(model.idf.values()) < 0
    np.testing.assert_allclose(
        LexicalIndex.build(documents).scores(["apple dog"])[0], model.get_scores(["apple", "dog"])
    )


def test_many_texts_in_groups_and_rows_give_what_single_scores_give(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = texts(rng, 3000, 12)
    index = LexicalIndex.build(documents)
    index.top(" ".join(documents[:50]), 1)
    assert 5 < len(index._postings.frequent) < 12
    for frequent in (1, 10**9):  # no term is held as a row, or every one is
        monkeypatch.setattr(postings, "_FREQUENT", frequent)
        other = LexicalIndex(TermCounts.from_texts(documents))
        for query in [*texts(rng, 30, 6), "style style tree", "apple"]:
            for k in (1, 7, 200):
                rows, scores = other.top(query, k)
                expected, values = index.top(query, k)
                np.testing.assert_array_equal(rows, expected, err_msg=query)
                np.testing.assert_allclose(scores, values, rtol=1e-12)
                np.testing.assert_array_equal(scores[np.argsort(rows)], other.at(query, np.sort(rows)))


@pytest.fixture(scope="module")
def many() -> tuple[list[str], list[str], RankBm25]:
    """Texts of frequent, less frequent and rare words, with many ties; queries; and the reference."""
    rng = np.random.default_rng(5)
    chances = 1 / np.arange(1, 601)
    draws = [rng.choice(600, size=size, p=chances / chances.sum()) for size in rng.integers(1, 9, size=3000)]
    documents = [" ".join(f"word{draw}" for draw in draw_of_one) for draw_of_one in draws]
    queries = [
        "word0 word1",
        "word1 word1 word0",
        "word0",
        "word550 word0 word1",
        "word90",
        "word70 word40 word0 word8",
    ]
    return documents, [*queries, *documents[:40], *queries], RankBm25(documents)


@pytest.mark.parametrize("kept", [0, postings._KEPT])
@pytest.mark.parametrize("k", [1, 10, 60])
def test_rare_entries_and_the_best_of_frequent_terms_give_rank_bm25s_hits(
    many: tuple[list[str], list[str], RankBm25], k: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents, queries, reference = many
    monkeypatch.setattr(postings, "_KEPT", kept)
    ours = LexicalIndex.build(documents)
    few = list[bool]()
    from_few = ours._postings._from_few

    def told(*arguments: Any) -> Any:
        found = from_few(*arguments)
        few.append(found is not None)
        return found

    monkeypatch.setattr(ours._postings, "_from_few", told)
    may = np.random.default_rng(6).random(len(documents)) < 0.6
    none = np.arange(len(documents)) < 0
    for query in queries:
        for row_filter in (None, lambda some: may[some], lambda some: none[some]):
            rows, scores = ours.top(query, k, row_filter)
            expected, values = reference.top(query, k, row_filter)
            np.testing.assert_array_equal(rows, expected, err_msg=query)
            np.testing.assert_allclose(scores, values, atol=1e-9)
            np.testing.assert_array_equal(scores[np.argsort(rows)], ours.at(query, np.sort(rows)))
    assert 0 < sum(few) < len(few)
    assert len(ours._postings._ranked) <= 1 or kept


def test_what_is_kept_of_frequent_terms_serves_every_query_with_them(
    many: tuple[list[str], list[str], RankBm25], monkeypatch: pytest.MonkeyPatch
) -> None:
    documents, _, _ = many
    for name in ("bm25", "tf_idf"):
        index = LexicalIndex(TermCounts.from_texts(documents), name)
        for rare in ("", "word550", "word90 word90"):
            index.top(f"word1 word0 {rare}", 10)
        assert len(index._postings._ranked) == 1
        rows, scores = index.top("word1 word0 word300", 10)
        everything = index.scores(["word1 word0 word300"])[0]
        order = np.lexsort((np.arange(len(documents)), -np.round(everything, 9)))[:10]
        np.testing.assert_array_equal(rows, order)
        np.testing.assert_array_equal(scores, everything[order])
