from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rag_diffusion.models.neighbor_attention import NeighborAttention
from rag_diffusion.training.optimizer import Optimizer


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, 8, 1)
        self.hidden = nn.Conv2d(8, 8, 3)
        self.linear = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.linear(self.hidden(self.conv_in(x)).mean((2, 3)))
        return hidden


def gradients(network: nn.Module, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=draws)


def weights(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def test_muon_moves_a_kernel_as_torch_moves_its_matrix() -> None:
    network = Network()
    matrix = nn.Parameter(network.hidden.weight.detach().clone().flatten(1))
    reference = torch.optim.Muon([matrix], lr=0.05, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    optimizer = Optimizer(dict(network.named_parameters()), "muon", 0.01)
    for step in range(3):
        gradients(network, step)
        assert network.hidden.weight.grad is not None
        matrix.grad = network.hidden.weight.grad.flatten(1)
        reference.step()
        optimizer.step(0.01)

    # torch iterates in bfloat16 always, ours where the hardware is fast at it: 1 % of three updates of about 0.01
    assert torch.allclose(network.hidden.weight.flatten(1), matrix, atol=1e-3)


def test_only_hidden_matrices_are_left_to_muon() -> None:
    one, other = Network(), Network()
    other.load_state_dict(one.state_dict())
    for network, name in ((one, "muon"), (other, "adamw")):
        optimizer = Optimizer(dict(network.named_parameters()), name, 0.01)
        gradients(network, 0)
        optimizer.step(0.01)
    same = {name for name, value in weights(one).items() if torch.equal(value, weights(other)[name])}

    assert same == {"conv_in.weight", "conv_in.bias", "hidden.bias", "linear.bias"}


def test_the_memory_format_does_not_matter() -> None:
    plain, last = Network(), Network()
    last.load_state_dict(plain.state_dict())
    last.to(memory_format=torch.channels_last)
    for network in (plain, last):
        optimizer = Optimizer(dict(network.named_parameters()), "muon", 0.01)
        for step in range(2):
            gradients(network, step)
            optimizer.step(0.01)

    for name, value in weights(plain).items():
        assert torch.allclose(value, weights(last)[name], atol=2e-4), name  # the iteration runs in bfloat16


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_restored_moments_continue_bit_for_bit(name: str) -> None:
    network = Network()
    optimizer = Optimizer(dict(network.named_parameters()), name, 0.01)
    gradients(network, 0)
    optimizer.step(0.01)
    resumed = copy.deepcopy(network)
    again = Optimizer(dict(resumed.named_parameters()), name, 0.01)
    again.load_state(optimizer.state())
    for one, its in ((network, optimizer), (resumed, again)):
        gradients(one, 1)
        its.step(0.01)

    assert all(torch.equal(value, weights(resumed)[key]) for key, value in weights(network).items())


def test_logits_of_the_attention_move_ten_times_as_fast_and_keep_their_size() -> None:
    """`log_sigma` and the like: AdamW's first step is its rate, without weight decay."""
    shapes = {
        "neighbor_attention.5.log_sigma": (3,),
        "neighbor_attention.5.role.logit": (2, 3),
        "conv_in.weight": (2, 3),
    }
    weights = {name: nn.Parameter(torch.ones(shape)) for name, shape in shapes.items()}
    optimizer = Optimizer(weights, "muon", 0.01)
    for weight in weights.values():
        weight.grad = torch.ones_like(weight)
    optimizer.step(0.01)
    slow = 1 - 0.01 * 0.01 - 0.01
    expected = dict(zip(shapes, (0.9, 0.9, slow), strict=True))
    for name, weight in weights.items():
        assert torch.allclose(weight, torch.full_like(weight, expected[name]), atol=1e-6)


@pytest.mark.parametrize(("own", "expected"), [(None, 0.1), (0.02, 0.02)])
def test_the_local_prior_has_a_learning_rate_of_its_own(own: float | None, expected: float) -> None:
    """Adam's first step moves each number by its rate."""
    attention = NeighborAttention(channels=8, head_dim=4)
    before = weights(attention)
    optimizer = Optimizer(dict(attention.named_parameters()), "adamw", 0.01, own)
    gradients(attention, 0)
    optimizer.step(0.01)
    moved = {name: (value - before[name]).abs() for name, value in weights(attention).items()}
    torch.testing.assert_close(moved["log_sigma"], torch.full((2,), expected), atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(moved["to_out.weight"], torch.full((8, 8), 0.01), atol=1e-5, rtol=1e-3)
