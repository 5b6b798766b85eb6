"""Targets and neighbors move apart, and none becomes the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rag_diffusion.config import TrainConfig
from rag_diffusion.training.augment import SAME, Placement, SharedAugmentation, beside, mask_lookalikes
from rag_diffusion.training.data import Batches
from tests.unit.training.trainer import Trainer

MOVING = {"augment_targets": 0.8, "augment_neighbors": 0.8, "augment_shift": 4}


def place(count: int = 1, **changed: object) -> Placement:
    still = {
        "scale": np.ones(count),
        "shift": np.zeros((count, 2)),
        "flip": np.zeros(count, bool),
        "angle": np.zeros(count),
    }
    return Placement.from_terms(**(still | changed))  # type: ignore[arg-type]


def square(left: int, top: int, side: int, width: int = 32) -> torch.Tensor:
    """A black square on white, (1, 3, width, width)."""
    image = torch.ones(1, 3, width, width)
    image[..., top : top + side, left : left + side] = -1
    return image


def box(image: torch.Tensor) -> tuple[float, float, float, float]:
    """Centre (right, down) and sides of what is dark, in pixels."""
    ink = (1 - image[0].mean(0)) / 2
    across, down = ink.sum(0), ink.sum(1)
    columns, rows = (torch.arange(len(one)) + 0.5 for one in (across, down))
    total = ink.sum()
    return (
        float((across * columns).sum() / total),
        float((down * rows).sum() / total),
        float(across.sum() / down.max()),
        float(down.sum() / across.max()),
    )


def test_a_shift_moves_right_and_down_by_so_many_halves_of_the_side() -> None:
    moved = place(shift=np.array([[0.25, -0.125]])).apply(square(8, 12, 8))
    assert box(moved) == pytest.approx((16.0, 14.0, 8.0, 8.0), abs=0.01)


def test_a_scale_keeps_the_centre_and_its_lines() -> None:
    smaller = place(scale=np.array([0.5])).apply(square(8, 8, 16))
    assert box(smaller) == pytest.approx((16.0, 16.0, 8.0, 8.0), abs=0.05)
    larger = place(scale=np.array([1.5])).apply(square(8, 8, 16))
    assert box(larger) == pytest.approx((16.0, 16.0, 24.0, 24.0), abs=0.3)


def test_a_mirror_image_and_a_quarter_turn_clockwise() -> None:
    corner = square(2, 4, 6)
    torch.testing.assert_close(place(flip=np.array([True])).apply(corner), corner.flip(-1), atol=1e-5, rtol=0)
    turned = place(angle=np.array([np.pi / 2])).apply(corner)
    torch.testing.assert_close(turned, corner.rot90(-1, (2, 3)), atol=1e-4, rtol=0)


def test_mirror_scale_turn_and_shift_come_in_that_order() -> None:
    image = square(20, 10, 4)
    one = place(
        scale=np.array([0.5]), shift=np.array([[0.25, 0.0]]), flip=np.array([True]), angle=np.array([np.pi / 2])
    )
    right, down, *_ = box(one.apply(image))
    # 6 right and 4 up of the centre; mirrored 6 left; turned clockwise 4 right and 6 up; halved 2, 3; moved by 4
    assert (right, down) == pytest.approx((16 + 2 + 4, 16 - 3), abs=0.05)


def test_what_moves_in_is_white_and_what_is_not_moved_stays_bit_for_bit() -> None:
    images = torch.cat([square(0, 0, 32), torch.rand(1, 3, 32, 32)])
    moved = place(2, shift=np.array([[0.5, 0.0]] * 2), moved=np.array([True, False])).apply(images)
    assert (moved[0, :, :, :7] == 1).all()
    assert (moved[0, :, :, 9:] == -1).all()
    assert torch.equal(moved[1], images[1])


def test_each_image_has_draws_of_its_own_at_the_given_rates(config: TrainConfig) -> None:
    given = config.model_copy(update={"augment_neighbors": 0.7, "augment_targets": 0.2, "augment_flip": 0.25})
    drawn = Placement.draw(np.random.default_rng(0), 4000, given, 64, targets=False)
    targets = Placement.draw(np.random.default_rng(0), 4000, given, 64, targets=True)
    assert drawn.moved.mean() == pytest.approx(0.7, abs=0.03)
    assert targets.moved.mean() == pytest.approx(0.2, abs=0.03)
    scale = 1 / np.sqrt(np.abs(np.linalg.det(drawn.matrix[:, :, :2])))
    assert 0.4 <= scale.min() < 0.42 < 1.37 < scale.max() <= 1.4001
    mirrored = np.linalg.det(drawn.matrix[:, :, :2]) < 0
    assert mirrored.mean() == pytest.approx(0.25, abs=0.03)
    sizes = 1 / np.sqrt(np.abs(np.linalg.det(targets.matrix[:, :, :2])))
    assert 0.79 < sizes.min() < sizes.max() < 1.26


def test_two_things_on_one_canvas_stand_left_and_right_at_half_size() -> None:
    images, others = square(8, 8, 16), square(0, 0, 32)
    both = beside(torch.cat([images, images]), torch.cat([others, others]), np.array([True, False]))
    assert box(both[:1, :, :, :16]) == pytest.approx((8.0, 16.0, 8.0, 8.0), abs=0.1)
    assert (both[0, :, 10:22, 17:31] == -1).all()
    assert torch.equal(both[1:], images)


def test_a_neighbor_that_shows_its_target_is_taken_from_it_alone() -> None:
    left = torch.zeros(1, 3, 64, 64) - 1
    left[..., :20] = 1
    targets = torch.cat([left, left.flip(-1)])
    weights = mask_lookalikes(targets, left.flip(-1), torch.zeros(2, 1, dtype=torch.long), torch.ones(2, 1))
    assert weights.tolist() == [[1.0], [0.0]]


def test_no_target_is_among_its_neighbors_after_any_augmentation(trainer: Trainer) -> None:
    """Symmetric drawings in styles that differ little: a shift alone could make them one."""
    moving = trainer.config.model_copy(update=MOVING | {"drop_neighbors": 0.0})
    batches = Batches(trainer.corpus, trainer.neighbors["train"], moving, 3, seed=0)
    for step in range(20):
        batch = batches[step]
        for number, image in enumerate(batch.images):
            for row in batch.neighbors.rows[number][batch.neighbors.mask[number]]:
                assert float((batch.neighbors.images[row] - image).square().mean()) > SAME


def test_augmentation_depends_on_the_step_alone_and_changes_no_other_draw(trainer: Trainer) -> None:
    moving = trainer.config.model_copy(update=MOVING)
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
    third = SharedAugmentation(flip=False, hue=2 * np.pi / 3).apply(colors)
    assert torch.allclose(third.view(3, 3), torch.tensor([[-1.0, 1.0, -1.0], [0.2] * 3, [1.0] * 3]), atol=1e-6)
    back = SharedAugmentation(flip=False, hue=-2 * np.pi / 3).apply(third)
    assert torch.allclose(back, colors, atol=1e-6)
    image = torch.randn(1, 3, 4, 4).clamp(-1, 1)
    assert torch.allclose(SharedAugmentation(flip=True, hue=0.0).apply(image), image.flip(-1), atol=1e-6)


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
    drawn = [SharedAugmentation.draw(np.random.default_rng([0, 3, 2]), 1.0)]
    assert drawn[0] is not None
    assert torch.equal(changed.images[~alone], drawn[0].apply(still.images[~alone]))
    assert torch.equal(changed.neighbors.images, drawn[0].apply(still.neighbors.images))
    assert changed.captions == still.captions


def test_nothing_happens_at_probability_zero() -> None:
    rng = np.random.default_rng(0)
    assert all(SharedAugmentation.draw(rng, 0.0) is None for _ in range(50))
    found = [SharedAugmentation.draw(rng, 0.3) for _ in range(2000)]
    assert abs(sum(one is not None for one in found) / 2000 - 0.3) < 0.04
