"""Training neighbors: which, how many, of which role, and that some of them mislead."""

from __future__ import annotations

from collections import Counter

import pandas as pd
import pytest
import torch

from rag_diffusion.errors import DataError
from rag_diffusion.models.neighbor_kv import CONTENT, STYLE
from rag_diffusion.training.candidates import same_entity
from rag_diffusion.training.data import Batches
from tests.unit.training.trainer import Trainer

SEEN = {"drop_both": 0.0, "drop_text": 0.0, "drop_neighbors": 0.0}


def batches(trainer: Trainer, **changes: object) -> Batches:
    config = type(trainer.config).model_validate(trainer.config.model_dump() | SEEN | changes)
    return Batches(trainer.corpus, trainer.neighbors["train"], config, 3, seed=0)


def pairs(trainer: Trainer) -> pd.DataFrame:
    return trainer.corpus.table.set_index("pair_id")


def shown(batch: object, role: int) -> list[list[str]]:
    """Pair ids of the neighbors of one role, for each target."""
    neighbors = batch.neighbors  # type: ignore[attr-defined]
    return [
        [
            neighbors.pair_ids[row]
            for row, weight, is_role in zip(rows, weights, roles == role, strict=True)
            if weight and is_role
        ]
        for rows, weights, roles in zip(neighbors.rows, neighbors.weights, neighbors.roles, strict=True)
    ]


def target_ids(given: Batches, step: int) -> list[str]:
    return [given._ids[row] for row in given._plan(step).targets]


def test_style_neighbors_are_other_things_in_the_target_s_manner(trainer: Trainer) -> None:
    table, given = pairs(trainer), batches(trainer, style_neighbors=2, style_share=1.0)
    counts: Counter[int] = Counter()
    for step in range(15):
        for target, names in zip(target_ids(given, step), shown(given[step], STYLE), strict=True):
            counts[len(names)] += 1
            for name in names:
                assert table.loc[name, "style"] == table.loc[target, "style"]
                assert table.loc[name, "family"] != table.loc[target, "family"]
                assert table.loc[name, "split"] == "train"
    assert counts[1]
    assert counts[2]
    assert not set(counts) - {0, 1, 2}


def test_content_neighbors_are_the_candidates_and_no_style_is_shown_unless_asked_for(trainer: Trainer) -> None:
    given = batches(trainer)
    for step in range(5):
        batch = given[step]
        assert not any(shown(batch, STYLE))
        for target, names in zip(target_ids(given, step), shown(batch, CONTENT), strict=True):
            assert 1 <= len(names) <= 3
            assert set(names) <= set(trainer.neighbors["train"][target])


def test_only_wrong_neighbors_show_no_drawing_of_the_target_s_family(trainer: Trainer) -> None:
    table, given = pairs(trainer), batches(trainer, only_wrong_neighbors=1.0)
    for step in range(5):
        for target, names in zip(target_ids(given, step), shown(given[step], CONTENT), strict=True):
            assert names
            assert all(table.loc[name, "family"] != table.loc[target, "family"] for name in names)


def test_a_wrong_neighbor_stands_among_right_ones(trainer: Trainer) -> None:
    table, given, mixed = pairs(trainer), batches(trainer, wrong_neighbors=1.0), 0
    for step in range(5):
        for target, names in zip(target_ids(given, step), shown(given[step], CONTENT), strict=True):
            right = sum(name in trainer.neighbors["train"][target] for name in names)
            wrong = sum(table.loc[name, "family"] != table.loc[target, "family"] for name in names)
            assert right >= 1
            mixed += wrong > 0
    assert mixed > 20


def test_a_focus_takes_its_share_of_every_batch(trainer: Trainer) -> None:
    styles = sorted(set(pairs(trainer)["style"]))
    given = batches(trainer, focus_styles=styles[:1], focus_share=0.5, group_size=2)
    for step in range(5):
        found = Counter(pairs(trainer).loc[target_ids(given, step), "style"])
        assert found[styles[0]] == 4
        assert sum(found.values()) == 8


def test_a_focus_that_no_pair_has_is_refused(trainer: Trainer) -> None:
    with pytest.raises(DataError, match="focus_styles: expected styles of training pairs, got"):
        batches(trainer, focus_styles=["no-such-style"])


def test_parts_of_a_batch_are_the_batch(trainer: Trainer) -> None:
    """Placements and what stands beside a neighbor belong to the step, not to the part."""
    moving = {"augment_neighbors": 0.7, "augment_targets": 0.5, "augment_beside": 0.5, "augment_together": 1.0}
    given = batches(trainer, style_neighbors=2, style_share=0.7, wrong_neighbors=0.3, **moving)
    whole, halves = given[4], given.parts(4, [slice(0, 4), slice(4, 8)])
    images = {name: whole.neighbors.images[row] for row, name in enumerate(whole.neighbors.pair_ids)}
    for half, rows in zip(halves, (slice(0, 4), slice(4, 8)), strict=True):
        assert torch.equal(half.images, whole.images[rows])
        for row, name in enumerate(half.neighbors.pair_ids):
            assert torch.equal(half.neighbors.images[row], images[name])


def test_candidates_are_of_the_same_entity_in_other_styles_and_from_the_train_split_alone(trainer: Trainer) -> None:
    table, found = pairs(trainer), same_entity(trainer.corpus)
    assert set(found) == set(table.index[table["split"] == "train"])
    assert any(found.values())
    for name, others in found.items():
        rows = table.loc[others]
        assert set(rows["entity"]) <= {table.loc[name, "entity"]}
        assert table.loc[name, "style"] not in set(rows["style"])
        assert table.loc[name, "duplicate_group"] not in set(rows["duplicate_group"])
        assert set(rows["split"]) <= {"train"}
    assert found == same_entity(trainer.corpus)
