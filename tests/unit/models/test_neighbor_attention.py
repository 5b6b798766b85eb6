"""What must hold of the attention to neighbors."""

from __future__ import annotations

import math

import pytest
import torch

from rag_diffusion.models.neighbor_attention import NeighborAttention


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


def test_equals_the_equation_in_its_docstring(attention: NeighborAttention) -> None:
    sample, maps = torch.randn(1, 8, 3, 4), torch.randn(1, 2, 8, 3, 4)
    with torch.no_grad():
        got = attention(sample, attention.project(maps, torch.ones(1, 2, dtype=torch.bool)))
        torch.testing.assert_close(got[0], explicit(attention, sample[0], maps[0]), atol=1e-5, rtol=1e-5)


def test_a_row_without_neighbors_comes_back_bit_for_bit(attention: NeighborAttention) -> None:
    sample, maps = torch.randn(2, 8, 4, 4), torch.randn(2, 3, 8, 4, 4)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    out = attention(sample, attention.project(maps, mask))
    assert torch.equal(out[1], sample[1])
    assert not torch.allclose(out[0], sample[0])


def test_the_order_of_neighbors_does_not_matter(attention: NeighborAttention) -> None:
    sample, maps = torch.randn(1, 8, 4, 4), torch.randn(1, 3, 8, 4, 4)
    mask = torch.ones(1, 3, dtype=torch.bool)
    torch.testing.assert_close(
        attention(sample, attention.project(maps, mask)),
        attention(sample, attention.project(maps[:, [2, 0, 1]], mask)),
    )


def test_a_masked_neighbor_is_as_good_as_absent(attention: NeighborAttention) -> None:
    sample, maps = torch.randn(1, 8, 4, 4), torch.randn(1, 2, 8, 4, 4)
    masked = attention(sample, attention.project(maps, torch.tensor([[True, False]])))
    absent = attention(sample, attention.project(maps[:, :1], torch.ones(1, 1, dtype=torch.bool)))
    torch.testing.assert_close(masked, absent)


def test_zero_init_leaves_the_map_unchanged() -> None:
    module = NeighborAttention(channels=8, head_dim=4)
    sample, maps = torch.randn(1, 8, 4, 4), torch.randn(1, 2, 8, 4, 4)
    assert torch.equal(module(sample, module.project(maps, torch.ones(1, 2, dtype=torch.bool))), sample)


def test_a_head_width_that_does_not_divide_the_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a divisor of 8 channels, got 3"):
        NeighborAttention(channels=8, head_dim=3)
