"""Verdicts on images, and the styles that give no prototypes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rag_diffusion.errors import ModelError
from rag_diffusion.metrics.judge import Judge, hidden_styles, why_not_judged
from rag_diffusion.metrics.ruler.entity import Prototypes
from rag_diffusion.metrics.ruler.store import Looks, Ruler
from rag_diffusion.metrics.variants import best_copies, neighbor_rows, real_rows
from rag_diffusion.retrieval.neighbor_table import NeighborTable
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.types import Prompt
from tests.unit.scored import shown_for

ENTITIES, SIZE = 8, 16


def ideal_looks(entities: np.ndarray, styles: np.ndarray, num_styles: int) -> Looks:
    """What perfect scorers would see: one axis an entity, one logit a style."""
    style = np.eye(num_styles)[styles]
    return Looks(
        pooled=np.zeros((len(entities), 4), np.float32), entity=np.eye(SIZE)[entities], style=style, style_check=style
    )


def ideal_judge(ruler: Ruler, prompts: list[Prompt]) -> Judge:
    """Prototypes of unseen entities `new-0` .. in all styles, on the axes of `ideal_looks`."""
    numbers = np.repeat(np.arange(ENTITIES), len(ruler.styles))
    prototypes = Prototypes(np.eye(SIZE)[numbers], [f"new-{n}" for n in numbers], list(ruler.styles) * ENTITIES)
    return Judge(ruler, prompts, prototypes, [frozenset({prompt.style}) for prompt in prompts])


def prompts_for(ruler: Ruler) -> list[Prompt]:
    return [
        Prompt(prompt_id=f"p{n}", split="test", entity=f"new-{n}", family="f", title="t",
               style=ruler.styles[n % len(ruler.styles)], kind="caption", text="t", default=True, seed=0)
        for n in range(ENTITIES)
    ]  # fmt: skip


def test_right_entity_and_right_style_are_told_apart(tiny_ruler: Ruler) -> None:
    prompts = prompts_for(tiny_ruler)
    entity, style = np.arange(ENTITIES), np.arange(ENTITIES) % len(tiny_ruler.styles)
    entity[0], style[1] = 5, (style[1] + 1) % len(tiny_ruler.styles)
    found = ideal_judge(tiny_ruler, prompts).verdicts(ideal_looks(entity, style, len(tiny_ruler.styles)))
    assert found.entity.tolist() == [False] + [True] * 7
    assert found.style.tolist() == [True, False] + [True] * 6
    assert found.joint.tolist() == [False, False] + [True] * 6
    assert found.entity_guess[0] == "new-5"


def test_shuffled_labels_give_chance_though_every_image_is_right(tiny_ruler: Ruler) -> None:
    prompts = prompts_for(tiny_ruler)
    judge = ideal_judge(tiny_ruler, prompts)
    looks = ideal_looks(np.arange(ENTITIES), np.arange(ENTITIES) % len(tiny_ruler.styles), len(tiny_ruler.styles))
    assert judge.verdicts(looks).joint.all()
    assert judge.shuffled_joint(looks) == 0.0
    assert judge.chance["joint"] == pytest.approx(1 / (ENTITIES * len(tiny_ruler.styles)))


def test_shuffled_labels_of_images_of_nothing_give_the_chance_that_is_claimed(
    tiny_ruler: Ruler, rng: np.random.Generator
) -> None:
    prompts = prompts_for(tiny_ruler)
    judge, shares = ideal_judge(tiny_ruler, prompts), []
    for _ in range(200):
        style = rng.normal(size=(ENTITIES, len(tiny_ruler.styles)))
        looks = Looks(
            pooled=np.zeros((ENTITIES, 4), np.float32),
            entity=rng.normal(size=(ENTITIES, SIZE)),
            style=style,
            style_check=style,
        )
        shares.append(judge.shuffled_joint(looks))
    assert np.mean(shares) == pytest.approx(judge.chance["joint"], abs=4 * np.std(shares) / np.sqrt(200))


def test_prompts_of_train_entities_are_refused(tiny_ruler: Ruler) -> None:
    prompts = prompts_for(tiny_ruler)
    prompts[3] = replace(prompts[3], entity=sorted(tiny_ruler.train_entities)[0])
    with pytest.raises(ModelError, match="never seen, got 1"):
        ideal_judge(tiny_ruler, prompts)


def test_styles_of_the_target_and_of_its_own_neighbors_are_hidden_but_not_those_of_others(
    tiny_corpus: Corpus, tiny_prompts: list[Prompt]
) -> None:
    prompt = tiny_prompts[0]
    shown = shown_for(prompt, tiny_corpus)
    of_pair = tiny_corpus.table.set_index("pair_id")["style"]
    hidden = hidden_styles(prompt, shown, tiny_corpus)
    assert hidden == {prompt.style} | {of_pair[name] for name in shown.oracle}
    assert len(hidden) == 4


def test_best_copy_prefers_both_then_the_entity_then_the_rank(tiny_ruler: Ruler) -> None:
    judge = ideal_judge(tiny_ruler, prompts_for(tiny_ruler)[:1])

    class Shelf:
        def looks(self, rows: np.ndarray) -> Looks:
            # 10: nothing right, 11: style, 12 and 13: entity, 14: both
            return ideal_looks(
                np.array([1, 2, 0, 0, 0])[rows - 10], np.array([1, 0, 2, 3, 0])[rows - 10], len(tiny_ruler.styles)
            )

    def best(rows: list[int]) -> int:
        return int(best_copies(Shelf(), np.array([rows]), judge, np.array([0]))[0])

    assert best([10, 11, 12, 13, 14]) == 14
    assert best([10, 11, 13, 12]) == 13
    assert best([10, 11]) == 11


def test_real_image_is_the_entity_in_the_asked_style(tiny_corpus: Corpus, tiny_prompts: list[Prompt]) -> None:
    rows = tiny_corpus.table.iloc[real_rows(tiny_corpus, tiny_prompts)]
    assert rows["entity"].tolist() == [prompt.entity for prompt in tiny_prompts]
    assert rows["style"].tolist() == [prompt.style for prompt in tiny_prompts]


def test_neighbors_keep_their_rank(tiny_corpus: Corpus, tiny_prompts: list[Prompt]) -> None:
    shown = [shown_for(prompt, tiny_corpus).retrieved for prompt in tiny_prompts]
    rows = neighbor_rows(tiny_corpus, shown)
    assert tiny_corpus.table["pair_id"].iloc[rows[4]].tolist() == list(shown[4])
    uneven = neighbor_rows(tiny_corpus, [shown[0], shown[1][:1]])
    assert uneven[0].tolist() == rows[0].tolist()
    assert uneven[1].tolist() == [rows[1, 0]] * len(shown[0])
    assert neighbor_rows(tiny_corpus, []).size == 0


def test_verdicts_of_some_prompts_are_those_of_all(tiny_ruler: Ruler) -> None:
    prompts = prompts_for(tiny_ruler)
    entity, style = np.arange(ENTITIES), np.arange(ENTITIES) % len(tiny_ruler.styles)
    entity[5] = 2
    judge, rows = ideal_judge(tiny_ruler, prompts), np.array([1, 5, 6])
    whole = ideal_looks(entity, style, len(tiny_ruler.styles))
    found = judge.verdicts(whole.rows(rows), rows)
    assert found.entity.tolist() == judge.verdicts(whole).entity[rows].tolist() == [True, False, True]
    assert found.at(np.array([6, 5]), "entity").tolist() == [1.0, 0.0]
    assert np.array_equal(judge.margins(whole.rows(rows), rows), judge.margins(whole)[rows])


def test_a_users_own_corpus_is_not_judged(tiny_corpus: Corpus, tiny_ruler: Ruler, tiny_prompts: list[Prompt]) -> None:
    assert why_not_judged(tiny_corpus, tiny_prompts, tiny_ruler) is None
    folder = Corpus.open(tiny_corpus.path)
    folder.manifest["kind"] = "folder"
    assert "a user's own" in str(why_not_judged(folder, tiny_prompts, tiny_ruler))
    strange = [replace(tiny_prompts[0], style="cubism")]
    assert "['cubism']" in str(why_not_judged(tiny_corpus, strange, tiny_ruler))


def test_the_project_of_these_tests_has_no_leak(tiny_project: Path, tiny_corpus: Corpus) -> None:
    assert len(NeighborTable.open(tiny_project / "data/neighbors", tiny_corpus).prompts) > 40
