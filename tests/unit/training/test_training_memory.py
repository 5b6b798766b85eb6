"""What benchmarks/training_memory.py counts without data is what tensors with data save, and gradients are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rag_diffusion.models.trainable import Parts, train_parts
from rag_diffusion.models.unet import RetrievalUNet
from tests.unit.models.bases import BASES


@pytest.fixture
def training_memory(project_root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(project_root / "benchmarks"))
    import training_memory

    return training_memory


def saved(memory: Any, name: str, parts: Parts, device: str, batch: int = 2) -> int:
    base = BASES[name]
    with torch.device(device):
        unet = RetrievalUNet(**base.config, neighbor_skips=(2,)).train()
    train_parts(unet, parts)
    given = {key: _on(value, device) for key, value in base.inputs(batch).items() if key != "encoder_attention_mask"}
    with memory.fused_attention(), memory.counted(unet) as kept:
        memory.step(unet, given, 2, gradient=True).sum()
    return sum(kept.values())


def _on(value: Any, device: str) -> Any:
    return {key: one.to(device) for key, one in value.items()} if isinstance(value, dict) else value.to(device)


@pytest.mark.parametrize("name", ["stable-diffusion", "sdxl", "deepfloyd"])
def test_without_data_as_much_is_counted_as_with(training_memory: Any, name: str) -> None:
    assert saved(training_memory, name, "neighbors", "meta") == saved(training_memory, name, "neighbors", "cpu")


def test_a_frozen_base_saves_less_and_a_larger_batch_in_proportion(training_memory: Any) -> None:
    few, all_of_it = (saved(training_memory, "stable-diffusion", parts, "meta") for parts in ("neighbors", "all"))
    assert few < 0.6 * all_of_it
    twice = saved(training_memory, "stable-diffusion", "neighbors", "meta", batch=4)
    assert twice == pytest.approx(2 * few, rel=0.05)


def test_gradients_are_those_of_plain_attention(training_memory: Any) -> None:
    base, found = BASES["stable-diffusion"], []
    torch.manual_seed(0)
    unet = RetrievalUNet(**base.config, neighbor_skips=(2,))
    unet.randomize_output(0.2)
    given = {key: value for key, value in base.inputs(2).items() if key != "encoder_attention_mask"}
    for fused in (False, True):
        unet.zero_grad()
        if fused:
            with training_memory.fused_attention():
                training_memory.step(unet, given, 2, gradient=True).square().sum().backward()
        else:
            training_memory.step(unet, given, 2, gradient=True).square().sum().backward()
        found.append({name: value.grad.clone() for name, value in unet.named_parameters() if value.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, atol=1e-4, rtol=1e-3, msg=name)
