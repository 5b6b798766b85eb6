"""Muon against torch's own, and its batches against one matrix at a time."""

from __future__ import annotations

import pytest
import torch

from rag_diffusion.training import muon
from rag_diffusion.training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (9, 9)])
def test_an_orthogonal_matrix_has_singular_values_near_one_and_the_same_directions(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    given = torch.randn(3, *shape)
    found = orthogonal(given).float()
    left, _, right = torch.linalg.svd(given, full_matrices=False)
    values = torch.linalg.svdvals(found)
    assert 0.6 < values.min() < values.max() < 1.3
    inside = left.mT @ found @ right.mT
    off = inside - torch.diag_embed(torch.diagonal(inside, dim1=1, dim2=2))
    assert off.abs().max() < 0.05


def test_long_matrices_take_the_short_way_to_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    given = torch.randn(2, 16, 4) @ torch.randn(2, 4, 144) + 0.02 * torch.randn(2, 16, 144)
    monkeypatch.setattr(muon, "autocast_dtype", lambda *_: None)
    short = orthogonal(given)
    monkeypatch.setattr(muon, "_LONG", 100)
    torch.testing.assert_close(short, orthogonal(given), atol=1e-3, rtol=0)
    assert orthogonal(torch.zeros(1, 16, 144)).abs().max() == 0


def test_matrices_of_one_shape_move_as_they_would_alone_and_as_torch_moves_them() -> None:
    torch.manual_seed(1)
    start = {name: torch.randn(shape) for name, shape in {"a": (8, 12), "b": (8, 12), "c": (12, 8)}.items()}
    together = Muon({name: value.clone() for name, value in start.items()}, 0.1)
    alone = {name: Muon({name: value.clone()}, 0.1) for name, value in start.items()}
    theirs = {name: torch.nn.Parameter(value.clone()) for name, value in start.items()}
    reference = torch.optim.Muon(theirs.values(), lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        gradients = {name: torch.randn_like(value) for name, value in start.items()}
        together.step(gradients, 0.02)
        for name, one in alone.items():
            one.step({name: gradients[name]}, 0.02)
            theirs[name].grad = gradients[name]
        reference.step()
    for name in start:
        torch.testing.assert_close(together.matrices[name], alone[name].matrices[name], atol=1e-5, rtol=0)
        torch.testing.assert_close(together.matrices[name], theirs[name].detach(), atol=2e-3, rtol=0)
        assert not torch.allclose(together.matrices[name], start[name], atol=0.01)


def test_a_matrix_without_a_gradient_stays() -> None:
    optimizer = Muon({"a": torch.ones(2, 2), "b": torch.ones(2, 2)}, 0.1)
    optimizer.step({"a": torch.eye(2)}, 0.1)
    assert torch.equal(optimizer.matrices["b"], torch.ones(2, 2))
    assert set(optimizer.buffers) == {"a"}
