"""What must hold of the attention to neighbors."""

from __future__ import annotations

import math

import pytest
import torch

from rag_diffusion.models.neighbor_attention import NeighborAttention
from rag_diffusion.models.neighbor_kv import NeighborKV


@pytest.fixture
def attention() -> NeighborAttention:
    torch.manual_seed(0)
    module = NeighborAttention(channels=8, head_dim=4, zero_init=False)
    torch.nn.init.normal_(module.null_logit)
    return module.eval()


def explicit(module: NeighborAttention, sample: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """The equation of the module's docstring, term by term, for one image and all its neighbors."""
    channels, height, width = sample.shape
    cells = [(row, column) for row in range(height) for column in range(width)]
    queries = module.to_query(module.norm_query(sample.permute(1, 2, 0)))
    keys = module.to_key(module.norm_key(maps.permute(0, 2, 3, 1)))
    values = module.to_value(module.norm_key(maps.permute(0, 2, 3, 1)))
    out = torch.zeros(height, width, channels)
    for head in range(module.heads):
        part = slice(head * module.head_dim, (head + 1) * module.head_dim)
        sigma = math.exp(float(module.log_sigma[head]))
        for row, column in cells:
            logits, seen = [], []
            for neighbor in range(len(maps)):
                for other_row, other_column in cells:
                    distance = (row - other_row) ** 2 + (column - other_column) ** 2
                    product = float(queries[row, column, part] @ keys[neighbor, other_row, other_column, part])
                    logits.append(product / math.sqrt(module.head_dim) - distance / (2 * sigma**2))
                    seen.append(values[neighbor, other_row, other_column, part])
            weights = torch.softmax(torch.tensor([*logits, float(module.null_logit[head])]), dim=0)[:-1]
            out[row, column, part] = (weights[:, None] * torch.stack(seen)).sum(0)
    return sample + module.to_out(out).permute(2, 0, 1)


def see(
    module: NeighborAttention, sample: torch.Tensor, maps: torch.Tensor, weights: torch.Tensor, **more: torch.Tensor
) -> torch.Tensor:
    """The attended map of images (B, C, H, W), each with neighbors of its own (B, K, C, H, W)."""
    rows = torch.arange(maps.shape[0] * maps.shape[1]).view(maps.shape[:2])
    return module(sample, module.project(maps.flatten(0, 1), rows, weights, **more))[0]


def test_equals_the_equation_in_its_docstring(attention: NeighborAttention) -> None:
    sample, maps = torch.randn(1, 8, 3, 4), torch.randn(1, 2, 8, 3, 4)
    with torch.no_grad():
        got = see(attention, sample, maps, torch.ones(1, 2, dtype=torch.bool))
        torch.testing.assert_close(got[0], explicit(attention, sample[0], maps[0]), atol=1e-5, rtol=1e-5)


def test_a_row_without_neighbors_comes_back_bit_for_bit(attention: NeighborAttention) -> None:
    sample, maps = torch.randn(2, 8, 4, 4), torch.randn(2, 3, 8, 4, 4)
    out = see(attention, sample, maps, torch.tensor([[True, True, False], [False, False, False]]))
    assert torch.equal(out[1], sample[1])
    assert not torch.allclose(out[0], sample[0])


def test_the_order_of_neighbors_does_not_matter(attention: NeighborAttention) -> None:
    sample, maps = torch.randn(1, 8, 4, 4), torch.randn(1, 3, 8, 4, 4)
    mask = torch.ones(1, 3, dtype=torch.bool)
    torch.testing.assert_close(see(attention, sample, maps, mask), see(attention, sample, maps[:, [2, 0, 1]], mask))


def test_a_masked_neighbor_is_as_good_as_absent(attention: NeighborAttention) -> None:
    sample, maps = torch.randn(1, 8, 4, 4), torch.randn(1, 2, 8, 4, 4)
    masked = see(attention, sample, maps, torch.tensor([[True, False]]))
    absent = see(attention, sample, maps[:, :1], torch.ones(1, 1, dtype=torch.bool))
    torch.testing.assert_close(masked, absent)


def test_zero_init_leaves_the_map_unchanged() -> None:
    module = NeighborAttention(channels=8, head_dim=4)
    sample, maps = torch.randn(1, 8, 4, 4), torch.randn(1, 2, 8, 4, 4)
    assert torch.equal(see(module, sample, maps, torch.ones(1, 2, dtype=torch.bool)), sample)


def test_one_neighbor_of_two_images_is_the_same_as_two_equal_ones(attention: NeighborAttention) -> None:
    sample, shared = torch.randn(2, 8, 4, 4), torch.randn(1, 8, 4, 4)
    once = attention(sample, attention.project(shared, torch.zeros(2, 1, dtype=torch.long), torch.ones(2, 1)))[0]
    torch.testing.assert_close(once, see(attention, sample, shared.expand(2, 1, 8, 4, 4), torch.ones(2, 1)))


def with_roles() -> NeighborAttention:
    torch.manual_seed(1)
    module = NeighborAttention(channels=16, head_dim=4, zero_init=False, free_heads=0.5, roles=True)
    assert module.role is not None
    for parameter in module.role.parameters():
        torch.nn.init.normal_(parameter)
    return module.eval()


def test_roles_are_the_terms_of_the_equation() -> None:
    """k_o, v_o and b_o by hand: a neighbor of role style is one whose keys, values and log weight are shifted."""
    module = with_roles()
    sample, maps = torch.randn(1, 16, 2, 2), torch.randn(1, 2, 16, 2, 2)
    rows, weights = torch.tensor([[0, 1]]), torch.ones(1, 2)
    plain = module.project(maps[0], rows, weights, roles=torch.tensor([[0, 0]]))
    styled = module.project(maps[0], rows, weights, roles=torch.tensor([[0, 1]]))
    change, extra = styled.keys - plain.keys, plain.keys.shape[3] - 4
    assert not change[:, :, :4].any(), "the content neighbor"
    logit = module.role.logit[1] - module.role.logit[0]
    torch.testing.assert_close(change[0, :, 4:8, 2], logit[:, None].expand(4, 4))
    torch.testing.assert_close(change[0, :, 4:8, extra:], module.role.key[:, None].expand(4, 4, 4))
    torch.testing.assert_close(
        (styled.values - plain.values)[0, :, 4:8, extra:], module.role.value[:, None].expand(4, 4, 4)
    )
    with torch.no_grad():
        assert not torch.allclose(module(sample, plain)[0], module(sample, styled)[0])


def test_content_is_the_role_of_neighbors_that_name_none() -> None:
    module = with_roles()
    sample, maps, weights = torch.randn(1, 16, 2, 2), torch.randn(1, 2, 16, 2, 2), torch.ones(1, 2)
    given = see(module, sample, maps, weights, roles=torch.tensor([[0, 0]]))
    assert torch.equal(see(module, sample, maps, weights), given)


def test_free_heads_start_without_a_prior_and_style_has_heads_of_its_own() -> None:
    module = NeighborAttention(channels=32, head_dim=4, free_heads=0.5, roles=True)
    assert module.role is not None
    assert (module.log_sigma[:4].exp() <= 2.6).all()
    assert (module.log_sigma[4:].exp() > 50).all()
    prefers_style = module.role.logit[1] > module.role.logit[0]
    assert prefers_style.tolist() == [False] * 6 + [True] * 2


def test_a_free_head_finds_by_content_what_stands_elsewhere() -> None:
    """A local head looks at its own place, a free one at the cell whose key fits the query."""
    module = NeighborAttention(channels=8, head_dim=4, zero_init=False, free_heads=0.5)
    with torch.no_grad():
        module.log_sigma[0] = math.log(0.03)
        for layer in (module.to_query, module.to_key):
            layer.weight.copy_(8 * torch.eye(8))
    sample, maps = torch.eye(4).repeat(2, 1).view(1, 8, 1, 4), torch.zeros(1, 1, 8, 1, 4)
    maps[0, 0] = sample[0].flip(-1)
    seen = attention_weights(module, sample, maps)
    assert seen[0].argmax(-1).tolist() == [0, 1, 2, 3]
    assert seen[1].argmax(-1).tolist() == [3, 2, 1, 0]


def attention_weights(module: NeighborAttention, sample: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """(h, S, M) of one image."""
    kv = module.project(maps[0], torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1))
    query = module._query(sample, kv.keys.shape[3] - module.head_dim)
    return torch.softmax(query @ kv.keys.transpose(2, 3), -1)[0, :, :, :-1].detach()


def with_fine(zero_init: bool = False) -> NeighborAttention:
    torch.manual_seed(2)
    fine = {"a": (8, 2), "b": (8, 4)}
    return NeighborAttention(channels=8, head_dim=4, zero_init=zero_init, fine=fine, fine_dim=4).eval()


def test_finer_maps_are_selected_by_the_weights_of_the_coarse_attention() -> None:
    module = with_fine()
    sample, maps = torch.randn(1, 8, 3, 3), torch.randn(1, 1, 8, 3, 3)
    fine, finer = torch.randn(1, 8, 6, 6), torch.randn(1, 8, 12, 12)
    kv = module.project(maps[0], torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1), fine=[fine, finer])
    with torch.no_grad():
        _, got, _ = module(sample, kv, fine=[torch.zeros(1, 8, 6, 6), torch.zeros(1, 8, 12, 12)])
        weights = attention_weights_of(module, sample, kv)
        transfer = module.fine["a"]
        cells = weights @ transfer.values(fine)[0].transpose(0, 1)  # (h, S, d)
        merged = transfer.to_out(cells.transpose(0, 1).flatten(1)).T.reshape(1, 32, 3, 3)
    torch.testing.assert_close(got, torch.nn.functional.pixel_shuffle(merged, 2))


def attention_weights_of(module: NeighborAttention, sample: torch.Tensor, kv: NeighborKV) -> torch.Tensor:
    query = module._query(sample, kv.keys.shape[3] - module.head_dim)
    return torch.softmax(query @ kv.keys.transpose(2, 3), -1)[0, :, :, :-1]


def test_finer_maps_of_a_row_without_neighbors_come_back_bit_for_bit() -> None:
    module = with_fine()
    sample, maps = torch.randn(2, 8, 2, 2), torch.randn(2, 8, 2, 2)
    fine, finer = torch.randn(2, 8, 4, 4), torch.randn(2, 8, 8, 8)
    rows, weights = torch.tensor([[0], [1]]), torch.tensor([[1.0], [0.0]])
    found = module(sample, module.project(maps, rows, weights, fine=[fine, finer]), fine=[fine, finer])
    for before, after in zip((sample, fine, finer), found, strict=True):
        assert torch.equal(after[1], before[1])
        assert not torch.allclose(after[0], before[0])


def test_finer_maps_start_as_they_are_where_a_trained_base_is_extended() -> None:
    module = with_fine(zero_init=True)
    sample, maps = torch.randn(1, 8, 2, 2), torch.randn(1, 8, 2, 2)
    fine, finer = torch.randn(1, 8, 4, 4), torch.randn(1, 8, 8, 8)
    kv = module.project(maps, torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1), fine=[fine, finer])
    for before, after in zip((sample, fine, finer), module(sample, kv, fine=[fine, finer]), strict=True):
        assert torch.equal(after, before)


def test_a_head_width_that_does_not_divide_the_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a divisor of 8 channels, got 3"):
        NeighborAttention(channels=8, head_dim=3)


def test_the_strength_of_the_prior_says_how_far_place_counts() -> None:
    """At strength 0 the cells of a neighbor may be shuffled; at strength g the widths are those of sigma / sqrt(g)."""
    torch.manual_seed(0)
    plain = NeighborAttention(channels=8, head_dim=4, zero_init=False)
    blind, firm = (NeighborAttention(channels=8, head_dim=4, zero_init=False, prior_strength=g) for g in (0.0, 4.0))
    for module in (blind, firm):
        module.load_state_dict(plain.state_dict())
    sample, maps = torch.randn(1, 8, 4, 4), torch.randn(1, 1, 8, 4, 4)
    shuffled = maps.flatten(-2)[..., torch.randperm(16)].unflatten(-1, (4, 4))
    torch.testing.assert_close(see(blind, sample, maps, ONE), see(blind, sample, shuffled, ONE))
    assert not torch.allclose(see(plain, sample, maps, ONE), see(plain, sample, shuffled, ONE), atol=1e-3)
    with torch.no_grad():
        plain.log_sigma -= math.log(2)
    torch.testing.assert_close(see(firm, sample, maps, ONE), see(plain, sample, maps, ONE))
    with pytest.raises(ValueError, match="neighbor_prior_strength: expected a finite number of at least 0, got -1"):
        NeighborAttention(channels=8, head_dim=4, prior_strength=-1)


ONE = torch.ones(1, 1)
