"""Targets and neighbors move apart, and none becomes the other."""

from __future__ import annotations

import numpy as np
import torch

from rag_diffusion.training.augment import SAME, Moves, Together, keep_apart
from rag_diffusion.training.data import Batches

from .conftest import Trainer


def moves(flip: list[bool], shift: list[list[int]]) -> Moves:
    return Moves(flip=np.array(flip), shift=np.array(shift))


def test_a_mirror_image_and_a_shift_by_hand() -> None:
    image = torch.arange(9.0).view(1, 1, 3, 3).expand(3, 3, 3, 3)
    mirrored, moved, still = moves([True, False, False], [[0, 0], [1, -1], [0, 0]]).apply(image)
    assert mirrored[0].tolist() == [[2, 1, 0], [5, 4, 3], [8, 7, 6]]
    assert moved[0].tolist() == [[1, 2, 2], [1, 2, 2], [4, 5, 5]], "down by one, left by one, edges repeated"
    assert torch.equal(still, image[2])


def test_each_image_has_draws_of_its_own_at_the_given_rates() -> None:
    drawn = Moves.draw(np.random.default_rng(0), 2000, flip=0.25, shift=2)
    assert abs(drawn.flip.mean() - 0.25) < 0.03
    assert set(drawn.shift.ravel().tolist()) == {-2, -1, 0, 1, 2}


def test_a_neighbor_that_shows_its_target_is_taken_from_it_alone() -> None:
    left = torch.zeros(1, 3, 64, 64) - 1
    left[..., :20] = 1
    targets = torch.cat([left, left.flip(-1)])
    weights = keep_apart(targets, left.flip(-1), torch.zeros(2, 1, dtype=torch.long), torch.ones(2, 1))
    assert weights.tolist() == [[1.0], [0.0]]


def test_no_target_is_among_its_neighbors_after_any_augmentation(trainer: Trainer) -> None:
    """Symmetric drawings in styles that differ little: a shift alone could make them one."""
    moving = trainer.config.model_copy(update={"augment_flip": 0.5, "augment_shift": 4, "drop_neighbors": 0.0})
    batches = Batches(trainer.corpus, trainer.neighbors["train"], moving, 3, seed=0)
    for step in range(20):
        batch = batches[step]
        for number, image in enumerate(batch.images):
            for row in batch.neighbors.rows[number][batch.neighbors.mask[number]]:
                assert float((batch.neighbors.images[row] - image).square().mean()) > SAME


def test_augmentation_depends_on_the_step_alone_and_changes_no_other_draw(trainer: Trainer) -> None:
    moving = trainer.config.model_copy(update={"augment_flip": 0.5, "augment_shift": 3})
    one, two = (Batches(trainer.corpus, trainer.neighbors["train"], moving, 3, seed=0) for _ in range(2))
    still = Batches(trainer.corpus, trainer.neighbors["train"], trainer.config, 3, seed=0)
    assert torch.equal(one[5].images, two[5].images)
    assert torch.equal(one[5].neighbors.images, two[5].neighbors.images)
    assert one[5].captions == still[5].captions
    assert one[5].neighbors.pair_ids == still[5].neighbors.pair_ids
    assert not torch.equal(one[5].images, still[5].images)
    assert not torch.equal(one[5].neighbors.images, still[5].neighbors.images)


def test_a_turn_of_hue_by_hand() -> None:
    colors = torch.tensor([[1.0, -1.0, -1.0], [0.2, 0.2, 0.2], [1.0, 1.0, 1.0]]).view(3, 3, 1, 1)
    third = Together(flip=False, hue=2 * np.pi / 3).apply(colors)
    assert torch.allclose(third.view(3, 3), torch.tensor([[-1.0, 1.0, -1.0], [0.2] * 3, [1.0] * 3]), atol=1e-6)
    back = Together(flip=False, hue=-2 * np.pi / 3).apply(third)
    assert torch.allclose(back, colors, atol=1e-6)
    image = torch.randn(1, 3, 4, 4).clamp(-1, 1)
    assert torch.allclose(Together(flip=True, hue=0.0).apply(image), image.flip(-1), atol=1e-6)


def test_targets_and_neighbors_of_a_step_change_as_one_and_targets_without_neighbors_do_not(trainer: Trainer) -> None:
    together = trainer.config.model_copy(update={"augment_together": 1.0, "drop_neighbors": 0.4})
    plain = trainer.config.model_copy(update={"drop_neighbors": 0.4})
    changed, still = (
        Batches(trainer.corpus, trainer.neighbors["train"], one, 3, seed=0)[3] for one in (together, plain)
    )
    alone = ~still.neighbors.mask.any(1)
    assert 0 < int(alone.sum()) < len(alone)
    assert torch.equal(changed.images[alone], still.images[alone])
    assert not any(torch.equal(*pair) for pair in zip(changed.images[~alone], still.images[~alone], strict=True))
    drawn = [Together.draw(np.random.default_rng([0, 3, 2]), 1.0)]
    assert drawn[0] is not None
    assert torch.equal(changed.images[~alone], drawn[0].apply(still.images[~alone]))
    assert torch.equal(changed.neighbors.images, drawn[0].apply(still.neighbors.images))
    assert changed.captions == still.captions


def test_nothing_happens_at_probability_zero() -> None:
    rng = np.random.default_rng(0)
    assert all(Together.draw(rng, 0.0) is None for _ in range(50))
    found = [Together.draw(rng, 0.3) for _ in range(2000)]
    assert abs(sum(one is not None for one in found) / 2000 - 0.3) < 0.04
