from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rag_diffusion.errors import DataError
from rag_diffusion.files import tree_hash
from rag_diffusion.retrieval import counts
from rag_diffusion.retrieval.counts import TABLE_FILE, TermCounts
from rag_diffusion.retrieval.lexical import LexicalIndex, RankBm25
from rag_diffusion.retrieval.tokens import tokenize
from rag_diffusion.retrieval.weighting import LexicalName

TEXTS = ["red apple, noto style", "green apple, noto style", "two red cherries", "piñata in a box"]


def test_the_document_with_the_rare_word_is_first() -> None:
    scores = LexicalIndex.build(TEXTS).scores(["a cherry", "something else"])
    assert scores[0].argmax() == 2
    assert (scores[0] > 0).sum() == 1
    assert not scores[1].any()


def test_a_word_asked_twice_counts_twice() -> None:
    once, twice = LexicalIndex.build(TEXTS).scores(["cherry", "cherry cherry"])
    np.testing.assert_allclose(twice, 2 * once)


def test_table_survives_the_disk_with_the_same_bytes(tmp_path: Path) -> None:
    index = LexicalIndex.build(TEXTS)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        TermCounts.from_texts(TEXTS).save(tmp_path / name)
    assert tree_hash(tmp_path / "first") == tree_hash(tmp_path / "second")
    again = LexicalIndex(TermCounts.load(tmp_path / "first"))
    np.testing.assert_array_equal(again.scores(TEXTS), index.scores(TEXTS))
    assert len(again) == 4


def test_damaged_table_and_wordless_captions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run the stage `index` again"):
        TermCounts.load(tmp_path)
    TermCounts.from_texts(TEXTS).save(tmp_path)
    (tmp_path / TABLE_FILE).write_bytes(b"")
    with pytest.raises(DataError, match="run the stage `index` again"):
        TermCounts.load(tmp_path)
    with pytest.raises(DataError, match="got 2 without any"):
        LexicalIndex.build(["...", "?"])


def naive_tf_idf(texts: list[str], query: str) -> list[float]:
    """Cosines of dictionaries, by the textbook."""
    documents = [Counter(tokenize(text)) for text in texts]

    def vector(counts: Counter[str]) -> dict[str, float]:
        known = {term: count for term, count in counts.items() if any(term in one for one in documents)}
        return {
            term: count * (math.log((1 + len(texts)) / (1 + sum(term in one for one in documents))) + 1)
            for term, count in known.items()
        }

    def cosine(a: dict[str, float], b: dict[str, float]) -> float:
        norms = math.hypot(*a.values()) * math.hypot(*b.values())
        return sum(a[term] * b[term] for term in a.keys() & b.keys()) / norms if norms else 0.0

    return [cosine(vector(Counter(tokenize(query))), vector(one)) for one in documents]


def test_tf_idf_is_the_cosine_of_the_textbook() -> None:
    queries = ["red apple", "noto style apple apple", "piñata zebra", "zebra"]
    index = LexicalIndex.build(TEXTS, "tf_idf")
    expected = [naive_tf_idf(TEXTS, query) for query in queries]
    np.testing.assert_allclose(index.scores(queries), expected, atol=1e-12)
    assert index.scores(["red apple, noto style"]).max() == pytest.approx(1)


@pytest.mark.parametrize("name", ["bm25", "tf_idf"])
def test_tables_beside_each_other_score_as_one(name: LexicalName) -> None:
    texts = [*TEXTS, "", "a red box, noto style", "apple apple", "..."]
    parts = [
        TermCounts.from_texts(texts[low:high], needs_words=False) for low, high in ((0, 3), (3, 5), (5, 5), (5, 8))
    ]
    whole, stacked = LexicalIndex(TermCounts.from_texts(texts), name), LexicalIndex(parts, name)
    queries = ["red apple", "noto style apple apple", "piñata zebra", "zebra", "box", "style"]
    np.testing.assert_array_equal(stacked.scores(queries), whole.scores(queries))
    assert len(stacked) == len(whole) == 8
    for query in queries:
        assert stacked.explain(query) == whole.explain(query)
        for ours, expected in zip(stacked.top(query, 3), whole.top(query, 3), strict=True):
            np.testing.assert_array_equal(ours, expected)


def test_both_engines_explain_a_query_alike() -> None:
    sparse, reference = LexicalIndex.build(TEXTS), RankBm25(TEXTS)
    ours, theirs = sparse.explain("a red noto zebra"), reference.explain("a red noto zebra")
    assert ours == pytest.approx(theirs)
    assert list(ours) == ["noto", "red"]
    assert len(reference) == len(sparse)


def test_counting_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TermCounts.from_texts(TEXTS)
    monkeypatch.setattr(counts, "_BLOCK", 2)
    parts = TermCounts.from_texts(iter(TEXTS))
    for name in ("starts", "texts", "counts", "lengths"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
    assert parts.terms == whole.terms
