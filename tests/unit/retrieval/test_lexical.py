from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rag_diffusion.errors import DataError
from rag_diffusion.files import tree_hash
from rag_diffusion.retrieval.lexical import TABLE_FILE, LexicalIndex, tokenize

TEXTS = ["red apple, noto style", "green apple, noto style", "two red cherries", "piñata in a box"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A Red Apple, Noto-style", ["red", "apple", "noto", "style"]),
        ("two of them on the tables", ["two", "table"]),
        ("Piñatas", ["pinata"]),
        ("cherries dresses glass octopus bus", ["cherry", "dresse", "glass", "octopus", "bus"]),
        ("to the it", ["to", "the", "it"]),
        ("", []),
    ],
)
def test_words_of_a_text(text: str, words: list[str]) -> None:
    assert tokenize(text) == words


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
        LexicalIndex.build(TEXTS).save(tmp_path / name)
    assert tree_hash(tmp_path / "first") == tree_hash(tmp_path / "second")
    again = LexicalIndex.load(tmp_path / "first")
    np.testing.assert_array_equal(again.scores(TEXTS), index.scores(TEXTS))
    assert len(again) == 4


def test_damaged_table_and_wordless_captions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run the stage `index` again"):
        LexicalIndex.load(tmp_path)
    LexicalIndex.build(TEXTS).save(tmp_path)
    (tmp_path / TABLE_FILE).write_bytes(b"")
    with pytest.raises(DataError, match="run the stage `index` again"):
        LexicalIndex.load(tmp_path)
    with pytest.raises(DataError, match="got 2 without any"):
        LexicalIndex.build(["...", "?"])
