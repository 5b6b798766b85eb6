"""The paraphrases are a fair test: many, of validation entities, without a content word of any caption."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rag_diffusion.corpus.captions import CAPTION_TEMPLATES, describe
from rag_diffusion.retrieval.tokens import tokenize
from rag_diffusion.store.corpus import Corpus

STYLE_WORDS = "Noto, classic Noto, Twemoji, EmojiOne, classic EmojiOne, OpenMoji outline, Fluent flat"


@pytest.fixture
def paraphrases(project_root: Path) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = yaml.safe_load((project_root / "data/paraphrases.yaml").read_text("utf-8"))
    return found


def test_there_are_enough_of_them_and_none_twice(paraphrases: dict[str, dict[str, list[str]]]) -> None:
    texts = [text for entry in paraphrases.values() for text in entry["texts"]]
    assert len(paraphrases) >= 100
    assert len(texts) >= 200
    assert len({" ".join(tokenize(text)) for text in texts}) == len(texts)


def test_none_shares_a_word_with_any_caption_that_can_be_made(paraphrases: dict[str, dict[str, object]]) -> None:
    for entity, entry in paraphrases.items():
        words = {"title": str(entry["title"]), "kind": str(entry["kind"]), "style": STYLE_WORDS}
        captions = {word for template in CAPTION_TEMPLATES for word in tokenize(describe(template, **words))}
        for text in entry["texts"]:  # type: ignore[attr-defined]
            assert not captions & set(tokenize(text)), f"{entity} {entry['title']}: {text}"


def test_none_shares_a_word_with_a_caption_of_the_corpus(
    paraphrases: dict[str, dict[str, object]], project_root: Path
) -> None:
    if not (project_root / "data/corpus").is_dir():
        pytest.skip("data/corpus: not made here")
    corpus = Corpus.open(project_root / "data/corpus")
    if corpus.manifest["kind"] != "iconify":
        pytest.skip("data/corpus: a user's own")
    rows = corpus.table[corpus.table["split"] == "validation"]
    assert set(paraphrases) <= set(rows["entity"])
    for entity, entry in paraphrases.items():
        own = rows[rows["entity"] == entity]
        assert set(own["title"]) == {entry["title"]}
        assert corpus.manifest["kinds"][entity] == entry["kind"], entity
        captions = {word for caption in own["caption"] for word in tokenize(caption)}
        for text in entry["texts"]:  # type: ignore[attr-defined]
            assert not captions & set(tokenize(text)), f"{entity} {entry['title']}: {text}"
