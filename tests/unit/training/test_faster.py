"""Norms in half precision: the same numbers, fewer bytes."""

from __future__ import annotations

import copy

import torch
from torch import nn

from rag_diffusion.training.faster import norms_in_half


def network() -> nn.Sequential:
    torch.manual_seed(0)
    found = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.SiLU(), nn.Conv2d(8, 8, 3))
    nn.init.normal_(found[1].weight)
    return found


def test_in_float32_nothing_changes_not_even_the_gradient() -> None:
    plain, changed = network(), network()
    norms_in_half(changed)
    image = torch.randn(2, 3, 8, 8)
    assert torch.equal(changed(image), plain(image))
    plain(image).square().sum().backward()
    changed(image).square().sum().backward()
    for one, other in zip(plain.parameters(), changed.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    assert plain.state_dict().keys() == changed.state_dict().keys()


def test_under_autocast_a_map_keeps_its_type_and_its_values() -> None:
    plain, changed = network(), network()
    norms_in_half(changed)
    seen: dict[str, torch.Tensor] = {}
    for name, one in (("plain", plain), ("changed", changed)):
        one[1].register_forward_hook(lambda module, given, out, name=name: seen.update({name: out}))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            one(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
    assert seen["changed"].dtype == torch.bfloat16
    torch.testing.assert_close(seen["changed"].float(), seen["plain"].float(), atol=0.02, rtol=0.02)


def test_a_copy_has_norms_of_its_own() -> None:
    changed = network()
    norms_in_half(changed)
    copied = copy.deepcopy(changed)
    with torch.no_grad():
        copied[1].weight.zero_()
        copied[1].bias.zero_()
    image = torch.randn(1, 3, 8, 8)
    assert not copied[:2](image).any()
    assert changed[:2](image).any()
