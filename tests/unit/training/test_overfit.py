"""Eight pairs are learned by heart; what is trained, and whether neighbors are encoded with a gradient, is as asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rag_diffusion.errors import ConfigError
from rag_diffusion.models.trainable import train_parts
from rag_diffusion.training.data import Batches
from rag_diffusion.training.step import TrainingStep, batch_loss, draw_noised
from rag_diffusion.training.text_cache import TextCache
from rag_diffusion.training.validation import TIMESTEPS, make_probe, neighbor_gain
from tests.unit.training.trainer import Trainer


@pytest.mark.slow
def test_eight_pairs_are_overfitted(trainer: Trainer, tmp_path: Path) -> None:
    eight = dict(list(trainer.neighbors["train"].items())[:8])
    changes = {"drop_both": 0.0, "drop_text": 0.0, "drop_neighbors": 0.0, "group_size": 8, "steps": 200,
               "checkpoint_every": 200, "validate_every": 200, "learning_rate": 0.005,
               "optimizer": "adamw"}  # fmt: skip
    config = trainer.config.model_copy(update=changes)
    batches = Batches(trainer.corpus, eight, config, 3, seed=0)
    assert batches.num_pairs == 8
    probe = make_probe(trainer.generator, trainer.corpus, eight, 3, 8, seed=0)
    before = neighbor_gain(trainer.generator, probe)
    after = neighbor_gain(trainer(tmp_path, batches=batches, **changes).generator, probe)
    found = {t: after[f"loss_retrieved_t{t}"] / before[f"loss_retrieved_t{t}"] for t in TIMESTEPS}
    assert found[950] < 0.3, "what is drawn is decided here, and eight drawings are easily told apart"
    assert found[850] < 0.5


@pytest.mark.parametrize("through", [True, False])
def test_the_gradient_goes_through_the_neighbor_encoder_as_asked(trainer: Trainer, through: bool) -> None:
    generator = trainer.generator
    config = trainer.config.model_copy(update={"drop_both": 0.0, "drop_neighbors": 0.0})
    batch = Batches(trainer.corpus, trainer.neighbors["train"], config, 3, seed=0)[0]
    noised = draw_noised(generator, batch.images, slice(0, 8), 8, torch.Generator().manual_seed(0))
    gradients = {}
    for setting in (through, True):
        module = TrainingStep(generator, "fp32", neighbor_gradient=setting)
        generator.unet.zero_grad()
        batch_loss(module, generator, TextCache(generator.text_encoder), batch, noised, config).backward()
        gradients[setting] = {name: value.grad.clone() for name, value in generator.unet.named_parameters()
                              if value.grad is not None}  # fmt: skip
    assert any("to_key" in name or "to_k" in name for name in gradients[through])
    same = torch.allclose(gradients[through]["conv_in.weight"], gradients[True]["conv_in.weight"])
    assert same is through
    projections = [name for name in gradients[True] if name.startswith("neighbor_attention.")]
    assert all(torch.equal(gradients[through][name], gradients[True][name]) for name in projections)


def test_a_separate_encoder_that_nothing_would_train_is_refused(trainer: Trainer) -> None:
    unet = trainer.generator.unet
    unet.neighbor_encoder = torch.nn.Linear(2, 2)  # any module that wants a gradient
    with pytest.raises(ConfigError, match="neighbor_gradient: expected true with a separate neighbor encoder"):
        TrainingStep(trainer.generator, "fp32", neighbor_gradient=False)
    TrainingStep(trainer.generator, "fp32", neighbor_gradient=True)
    unet.neighbor_encoder.requires_grad_(False)
    TrainingStep(trainer.generator, "fp32", neighbor_gradient=False)


@pytest.mark.parametrize("parts", ["all", "neighbors"])
def test_a_batch_without_any_neighbor_trains(trainer: Trainer, tmp_path: Path, parts: Any) -> None:
    train_parts(trainer.generator.unet, parts)
    result = trainer(tmp_path, drop_neighbors=1.0, drop_both=0.0, drop_text=0.0, steps=2)
    assert len(result.losses) == 2


def test_hooks_are_called_at_their_steps_with_averaged_weights(trainer: Trainer, tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []
    shown: dict[int, torch.Tensor] = {}

    def often(generator: object, step: int) -> None:
        seen.append(("often", step))
        shown[step] = generator.unet.conv_in.weight.clone()

    def seldom(generator: object, step: int) -> dict[str, float]:
        seen.append(("seldom", step))
        return {"joint": step / 10}

    result = trainer(tmp_path, hooks=[(2, often), (5, seldom)])
    assert {row["step"]: row["joint"] for row in result.gains if "joint" in row} == {5: 0.5, 6: 0.6}
    assert seen == [("often", 2), ("often", 4), ("seldom", 5), ("often", 6), ("seldom", 6)]
    assert torch.equal(shown[6], trainer.generator.unet.conv_in.weight)
    assert not torch.equal(shown[2], shown[6])
