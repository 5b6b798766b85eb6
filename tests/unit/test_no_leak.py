"""What is committed has never seen a held-out entity: prompts against the cards of all weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rag_diffusion.corpus.prompts import read_prompts
from rag_diffusion.types import Prompt


@pytest.fixture(scope="module")
def held_out(request: pytest.FixtureRequest) -> list[Prompt]:
    folder = Path(request.config.rootpath) / "data/prompts"
    return [prompt for split in ("validation", "test") for prompt in read_prompts(folder / f"{split}.jsonl")]


CARDS = ("data/base/card.json", "data/ruler/ruler.json", "data/upsampler/card.json", "data/frames/card.json")


@pytest.mark.parametrize("card", CARDS)
def test_no_held_out_entity_or_family_was_trained_on(card: str, held_out: list[Prompt], project_root: Path) -> None:
    facts = json.loads((project_root / card).read_text())
    assert len(facts["train_entities"]) > 500
    assert not {prompt.entity for prompt in held_out} & set(facts["train_entities"])
    assert not {prompt.family for prompt in held_out} & set(facts.get("train_families", []))


def test_there_are_enough_held_out_entities(held_out: list[Prompt]) -> None:
    entities = {
        split: {prompt.entity for prompt in held_out if prompt.split == split} for split in ("validation", "test")
    }
    assert len(entities["test"]) >= 120
    assert len(entities["validation"]) >= 80
    families = {split: {prompt.family for prompt in held_out if prompt.split == split} for split in entities}
    assert not families["test"] & families["validation"]


def test_half_of_the_test_prompts_are_sentences_and_a_third_is_the_default(held_out: list[Prompt]) -> None:
    test = [prompt for prompt in held_out if prompt.split == "test"]
    assert abs(sum(prompt.kind == "sentence" for prompt in test) - len(test) / 2) <= 1
    assert sum(prompt.default for prompt in test) * 3 == len(test)
