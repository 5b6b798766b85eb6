"""Two entities in one prompt: the prompts, the verdict, the real pictures side by side."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rag_diffusion.metrics.ruler.entity import Prototypes
from rag_diffusion.metrics.two_entities import can_be_judged, collage, shown_entities, two_entity_prompts
from rag_diffusion.retrieval.conjunctions import things
from rag_diffusion.types import Prompt

ENTITIES, STYLES = ("ant", "bee", "cat"), ("one", "two", "three", "four", "five", "six")
WORDS = {style: style.title() for style in STYLES}


def prompt_of(entity: str, style: str = "one") -> Prompt:
    return Prompt(prompt_id=entity, split="test", entity=entity, family=entity, title=entity, style=style,
                  kind="caption", text=entity, default=True, seed=3)  # fmt: skip


@pytest.fixture
def prototypes() -> Prototypes:
    """One axis for each entity."""
    drawings = [(entity, style) for entity in ENTITIES for style in STYLES]
    features = np.stack([np.eye(3)[ENTITIES.index(entity)] for entity, _ in drawings])
    return Prototypes(features, *(list(column) for column in zip(*drawings, strict=True)))


def test_prompts_of_one_style_come_together_and_families_do_not() -> None:
    prompts = [prompt_of("ant"), prompt_of("bee", "two"), prompt_of("cat"), prompt_of("bee"), prompt_of("dog", "two")]
    prompts.insert(1, replace(prompt_of("ants"), family="ant"))
    joined = two_entity_prompts(prompts, WORDS)
    assert [(two.first.entity, two.second.entity) for two in joined] == [("ant", "cat"), ("bee", "dog")]
    assert [two.prompt.text for two in joined] == ["an ant and a cat in One style", "Two emoji of a bee and a dog"]
    assert [two.prompt.prompt_id for two in joined] == ["ant+cat", "bee+dog"]
    assert all(len(things(two.prompt.text)) == 2 for two in joined), "the retriever knows that there are two"


@pytest.mark.parametrize(
    ("features", "verdict"),
    [
        ([1, 0.9, 0], (True, True)),
        ([0.9, 1, 0], (True, True)),
        ([1, 0, 0.5], (True, False)),
        ([0, 0.2, 1], (False, False)),
    ],
)
def test_both_are_the_first_two_candidates(
    prototypes: Prototypes, features: list[float], verdict: tuple[bool, bool]
) -> None:
    two = two_entity_prompts([prompt_of("ant"), prompt_of("bee")], WORDS)[0]
    assert shown_entities(prototypes, np.array(features, dtype=float), two, frozenset({"one"})) == verdict


def test_two_styles_must_be_left(prototypes: Prototypes) -> None:
    assert can_be_judged(prototypes, frozenset(STYLES[:4]))
    assert not can_be_judged(prototypes, frozenset(STYLES[:5]))


def test_two_pictures_stand_side_by_side_on_white() -> None:
    red, blue = (np.full((64, 64, 3), color, dtype=np.uint8) for color in ((200, 0, 0), (0, 0, 200)))
    both = collage(red, blue)
    assert both.shape == (64, 64, 3)
    assert both[32, 10].tolist() == [200, 0, 0]
    assert both[32, 50].tolist() == [0, 0, 200]
    assert both[5, 5].tolist() == both[60, 60].tolist() == [255, 255, 255]
