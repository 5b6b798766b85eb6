"""A run that diverges stops, says why, and leaves its last good checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rag_diffusion.errors import ConfigError, ModelError
from rag_diffusion.training.divergence import LossWatch
from rag_diffusion.training.precision import LossScale
from rag_diffusion.training.processes import explain_out_of_memory
from tests.unit.training.trainer import Trainer


def watched(*losses: float, warmup: int = 0) -> LossWatch:
    return LossWatch(warmup, list(enumerate(losses, start=1)))


def test_a_loss_four_times_the_lowest_level_is_divergence() -> None:
    assert not watched(*[1.0] * 40).diverged
    assert not watched(*[0.5] * 20, *[1.9] * 20).diverged
    assert watched(*[0.5] * 20, *[2.1] * 20).diverged
    assert not watched(*[0.5] * 20, *[2.1] * 9).diverged, "fewer than half of the last 20"
    assert watched(*[0.5] * 20, *[2.1] * 11).diverged


def test_single_outliers_do_not_count() -> None:
    assert not watched(*([0.5] * 9 + [1000.0]) * 6).diverged


def test_what_is_lost_in_the_warm_up_is_told_after_it() -> None:
    lost = [*[0.1] * 20, *[1.0] * 30]
    assert not watched(*lost, warmup=50).diverged
    assert watched(*lost, 1.0, warmup=50).diverged
    assert not watched(*[1.0] * 20, *[0.1] * 31, warmup=50).diverged


def test_doubt_comes_before_divergence() -> None:
    doubtful = watched(*[0.5] * 20, *[2.1] * 3)
    assert doubtful.in_doubt
    assert not doubtful.diverged


@pytest.mark.slow
def test_a_far_too_large_learning_rate_stops_the_run_with_the_reason(trainer: Trainer, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"diverged: expected a .*loss.*, got .* at step \d+; lower learning_rate"):
        trainer(tmp_path, steps=120, learning_rate=100.0, optimizer="adamw", warmup_steps=25, batch_size=4)


@pytest.mark.slow
def test_the_last_good_checkpoint_survives_a_divergence(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = {"steps": 22, "warmup_steps": 0, "checkpoint_every": 11, "batch_size": 4}
    trainer(tmp_path, **good)
    before = (tmp_path / "state.safetensors").read_bytes()
    monkeypatch.setattr("rag_diffusion.training.loop._rate", lambda step, config, seconds=0.0: 2.0)
    with pytest.raises(ModelError, match="the checkpoint of step 22 is kept in"):
        trainer(tmp_path, **good | {"steps": 90, "checkpoint_every": 30, "optimizer": "muon"})
    assert (tmp_path / "state.safetensors").read_bytes() == before


def test_a_gradient_that_is_not_finite_stops_the_run(trainer: Trainer, tmp_path: Path) -> None:
    with torch.no_grad():
        trainer.generator.unet.conv_out.bias.fill_(float("inf"))
    with pytest.raises(ModelError, match="expected a finite loss and gradient, got a gradient of norm nan at step 1"):
        trainer(tmp_path)


def test_a_loss_scale_halves_at_an_overflow_and_gives_up_below_one() -> None:
    scale = LossScale.for_dtype(torch.float16)
    assert scale.value == 65536
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.full((2,), 65536.0)
    scale.unscale([weight])
    assert torch.equal(weight.grad, torch.ones(2))
    steps = 0
    while not scale.exhausted:
        assert not scale.accept(False)
        steps += 1
    assert steps == 17
    grown = LossScale.for_dtype(torch.float16)
    assert all(grown.accept(True) for _ in range(2000))
    assert grown.value == 2 * 65536


def test_without_float16_there_is_no_scale() -> None:
    scale = LossScale.for_dtype(None)
    assert (scale.value, scale.exhausted) == (1.0, True)


def test_float16_needs_a_gpu(trainer: Trainer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a CUDA GPU for fp16, got cpu; use bf16, fp32 or auto"):
        trainer(tmp_path, precision="fp16")


def test_too_little_memory_says_what_to_lower(trainer: Trainer) -> None:
    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    with pytest.raises(ModelError, match=r"8 images, 1 part.* Tried to allocate 2 GiB.; raise accumulation"):
        explain_out_of_memory(trainer.config, full)
