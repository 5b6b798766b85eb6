"""Controls that are controls: random neighbors in a corpus of one style, and what cannot be answered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rag_diffusion.corpus.prompts import folder_prompts
from rag_diffusion.errors import LineageError
from rag_diffusion.readers.images import encode_png
from rag_diffusion.retrieval.controls import answered, shown_to, why_without
from rag_diffusion.retrieval.drawings import ENOUGH, Drawings
from rag_diffusion.retrieval.neighbor_table import PromptNeighbors
from rag_diffusion.store.corpus import Corpus, write_corpus
from rag_diffusion.types import Pair, Prompt
from tests.tiny import tiny_pairs


def corpus_of(pairs: list[Pair], folder: Path) -> Corpus:
    facts = {"rejected": [], "kind": "folder", "style_words": {}, "kinds": {}}
    write_corpus(folder, pairs, image_size=64, facts=facts)
    return Corpus.open(folder)


@pytest.fixture
def photos(tmp_path: Path) -> Corpus:
    """A user's own pictures: one style, which has a name."""
    return corpus_of([replace(pair, style="photo") for pair in tiny_pairs() if pair.style == "noto"], tmp_path / "own")


def entry(**lists: tuple[str, ...]) -> PromptNeighbors:
    none: dict[str, tuple[str, ...]] = {"retrieved": (), "oracle": (), "random": ()}
    return PromptNeighbors(exclude=(), scores=(), parts={}, **none | lists)


def test_in_a_corpus_of_one_named_style_random_neighbors_come_from_every_other_family(photos: Corpus) -> None:
    drawings = Drawings(photos)
    for prompt in folder_prompts(photos, "test"):
        row_filter = drawings.unrelated(prompt)
        assert row_filter.sum() == len(photos) - 1
        assert prompt.family not in set(drawings.family[row_filter])


def test_with_few_pairs_in_other_styles_the_style_does_not_decide(tmp_path: Path, tiny_corpus: Corpus) -> None:
    pairs = [pair for pair in tiny_pairs() if pair.style == "noto"]
    few = [replace(pair, style="sketch") if number < ENOUGH - 1 else pair for number, pair in enumerate(pairs)]
    corpus = corpus_of(few, tmp_path / "few")
    asked = next(prompt for prompt in folder_prompts(corpus, "test") if prompt.style == "noto")
    assert set(Drawings(corpus).style[Drawings(corpus).unrelated(asked)]) == {"noto", "sketch"}
    many = Drawings(tiny_corpus)
    assert asked.style not in set(many.style[many.unrelated(asked)])


def test_a_near_duplicate_under_another_label_is_hidden_from_its_pair(tmp_path: Path) -> None:
    pairs = [pair for pair in tiny_pairs() if pair.style == "noto"]
    asked = next(pair for pair in pairs if pair.split == "test")
    pixels = np.full((64, 64, 3), 255, dtype=np.uint8)
    pixels[16:48, 16:48] = (200, 30, 30)
    nudged = pixels.copy()
    nudged[16, 16:48] = 255  # half a cell of sixteen thumbnail cells: a mean squared difference of .002
    twin = replace(asked, pair_id="zz/twin", entity="twin", family="twin", duplicate_group="zz/twin")
    asked, twin = replace(asked, image=encode_png(pixels)), replace(twin, image=encode_png(nudged))
    corpus = corpus_of([asked, twin, *(one for one in pairs if one.pair_id != asked.pair_id)], tmp_path / "twins")
    (prompt,) = [one for one in folder_prompts(corpus, "test") if one.prompt_id == asked.pair_id]
    assert corpus.row("zz/twin") in Drawings(corpus).of_prompt(prompt)
    assert Drawings(corpus).target(prompt) == corpus.row(asked.pair_id)


def test_a_variant_answers_the_prompts_that_it_has_neighbors_for(photos: Corpus) -> None:
    prompts: list[Prompt] = folder_prompts(photos, "test")[:3]
    lists = [entry(oracle=("a",)), entry(retrieved=("b",)), entry(oracle=("c",), random=("d",))]
    table = {prompt.prompt_id: found for prompt, found in zip(prompts, lists, strict=True)}
    found = {name: answered(name, prompts, table).tolist() for name in ("none", "oracle", "copied", "random")}
    assert found == {"none": [0, 1, 2], "oracle": [0, 2], "copied": [1], "random": [2]}
    assert (shown_to("real_degraded", lists[1]), shown_to("none", lists[1])) == (("b",), ())
    assert "same `entity`" in why_without("oracle")
    with pytest.raises(LineageError, match="expected neighbors of every prompt, got none for .*run the stage"):
        answered("random", prompts, {})
