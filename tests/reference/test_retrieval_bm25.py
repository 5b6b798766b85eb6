"""Our BM25 against rank_bm25 itself."""

from __future__ import annotations

import numpy as np
from rank_bm25 import BM25Okapi

from rag_diffusion.retrieval.lexical import LexicalIndex, tokenize

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
