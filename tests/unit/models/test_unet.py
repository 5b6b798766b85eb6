"""RetrievalUNet against diffusers' own U-Net, and its own invariances."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from rag_diffusion.models.unet import RetrievalUNet
from tests.unit.models.bases import TINY


def inputs(batch: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(batch, 7)
    mask[0, 4:] = 0
    return (
        torch.randn(batch, 12, 8, 8, generator=generator), torch.tensor([3.0, 500.0, 999.0][:batch]),
        torch.randn(batch, 7, 24, generator=generator), mask,
    )  # fmt: skip


def features(unet: RetrievalUNet, mask: torch.Tensor) -> dict:
    generator = torch.Generator().manual_seed(2)
    maps = unet.encode_neighbors(
        torch.randn(4, 12, 8, 8, generator=generator), torch.randn(4, 7, 24, generator=generator)
    )
    return unet.project_neighbors(maps, torch.tensor([[0, 1], [2, 3], [1, 2]]), mask)


def test_without_neighbors_it_is_its_base_bit_for_bit(tiny_unet: RetrievalUNet) -> None:
    base = UNet2DConditionModel(**TINY).eval()
    state = {name: value for name, value in tiny_unet.state_dict().items() if not name.startswith("neighbor_attention")}
    base.load_state_dict(state)
    sample, timestep, text, mask = inputs()
    expected = base(sample, timestep, text, encoder_attention_mask=mask).sample
    assert torch.equal(tiny_unet(sample, timestep, text, encoder_attention_mask=mask).sample, expected)


def test_rows_without_neighbors_in_a_mixed_batch_equal_the_base(tiny_unet: RetrievalUNet) -> None:
    sample, timestep, text, mask = inputs()
    kv = features(tiny_unet, torch.tensor([[True, True], [False, False], [True, False]]))
    mixed = tiny_unet(sample, timestep, text, encoder_attention_mask=mask, neighbors=kv).sample
    plain = tiny_unet(sample, timestep, text, encoder_attention_mask=mask).sample
    assert torch.equal(mixed[1], plain[1])
    assert not torch.allclose(mixed[0], plain[0], atol=1e-3)
    assert not torch.allclose(mixed[2], plain[2], atol=1e-3)


def test_a_batch_equals_its_rows_one_by_one(tiny_unet: RetrievalUNet) -> None:
    sample, timestep, text, mask = inputs()
    kv = features(tiny_unet, torch.tensor([[True, True], [False, False], [True, False]]))
    together = tiny_unet(sample, timestep, text, encoder_attention_mask=mask, neighbors=kv).sample
    for row in range(3):
        one = torch.tensor([row])
        alone = tiny_unet(
            sample[one], timestep[one], text[one], encoder_attention_mask=mask[one],
            neighbors={name: part.select(one) for name, part in kv.items()},
        ).sample  # fmt: skip
        torch.testing.assert_close(together[one], alone, atol=1e-4, rtol=1e-4)


def test_saved_and_loaded_it_gives_the_same(tiny_unet: RetrievalUNet, tmp_path: Path) -> None:
    tiny_unet.save_pretrained(tmp_path)
    loaded = RetrievalUNet.from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()
    assert tuple(loaded.config.neighbor_skips) == (1,)
    assert loaded.config.neighbor_head_dim == 16
    sample, timestep, text, mask = inputs()
    shown = torch.ones(3, 2, dtype=torch.bool)
    expected = tiny_unet(
        sample, timestep, text, encoder_attention_mask=mask, neighbors=features(tiny_unet, shown)
    ).sample
    got = loaded(sample, timestep, text, encoder_attention_mask=mask, neighbors=features(loaded, shown)).sample
    assert torch.equal(got, expected)


def test_a_skip_map_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"neighbor_skips: expected indices below 4, got \[9\]"):
        RetrievalUNet(**TINY, neighbor_skips=(9,), neighbor_head_dim=16)


FINE = {"neighbor_fine_skips": (0, 1), "neighbor_fine_dim": 4, "neighbor_roles": True}


@pytest.fixture
def coarse_unet() -> RetrievalUNet:
    """It attends to a map at half the size of the input."""
    torch.manual_seed(0)
    unet = RetrievalUNet(**TINY, neighbor_skips=(2,), neighbor_head_dim=16)
    for attention in unet.neighbor_attention.values():
        torch.nn.init.normal_(attention.to_out.weight)
    return unet.eval()


def test_a_trained_base_that_is_extended_stays_what_it_is(coarse_unet: RetrievalUNet, tmp_path: Path) -> None:
    """Finer maps and roles start as nothing, whatever its own attention has learned."""
    coarse_unet.save_pretrained(tmp_path)
    extended = RetrievalUNet.from_pretrained(tmp_path, **FINE).eval()
    sample, timestep, text, mask = inputs()
    shown = torch.ones(3, 2, dtype=torch.bool)
    expected = coarse_unet(sample, timestep, text, encoder_attention_mask=mask, neighbors=features(coarse_unet, shown))
    got = extended(sample, timestep, text, encoder_attention_mask=mask, neighbors=features(extended, shown))
    torch.testing.assert_close(got.sample, expected.sample, atol=1e-5, rtol=1e-5)


def test_an_extended_base_is_saved_and_loaded_with_what_it_learned(coarse_unet: RetrievalUNet, tmp_path: Path) -> None:
    coarse_unet.save_pretrained(tmp_path / "base")
    extended = RetrievalUNet.from_pretrained(tmp_path / "base", **FINE).eval()
    extended.randomize_output(0.2)
    extended.save_pretrained(tmp_path / "extended")
    loaded = RetrievalUNet.from_pretrained(tmp_path / "extended").eval()
    sample, timestep, text, mask = inputs()
    shown = torch.ones(3, 2, dtype=torch.bool)
    one, other = (
        unet(sample, timestep, text, encoder_attention_mask=mask, neighbors=features(unet, shown)).sample
        for unet in (extended, loaded)
    )
    assert torch.equal(one, other)
    plain = coarse_unet(
        sample, timestep, text, encoder_attention_mask=mask, neighbors=features(coarse_unet, shown)
    ).sample
    assert not torch.allclose(one, plain, atol=1e-3)


def test_with_finer_maps_rows_without_neighbors_equal_the_base(coarse_unet: RetrievalUNet, tmp_path: Path) -> None:
    coarse_unet.save_pretrained(tmp_path)
    extended = RetrievalUNet.from_pretrained(tmp_path, **FINE).eval()
    extended.randomize_output(0.5)
    sample, timestep, text, mask = inputs()
    kv = features(extended, torch.tensor([[True, True], [False, False], [True, False]]))
    mixed = extended(sample, timestep, text, encoder_attention_mask=mask, neighbors=kv).sample
    plain = coarse_unet(sample, timestep, text, encoder_attention_mask=mask).sample
    assert torch.equal(mixed[1], plain[1])
    assert not torch.allclose(mixed[0], plain[0], atol=1e-3)


def test_a_map_that_is_not_finer_is_refused() -> None:
    with pytest.raises(ValueError, match="expected maps finer than the finest of neighbor_skips, '1', got"):
        RetrievalUNet(**TINY, neighbor_skips=(1,), neighbor_head_dim=16, neighbor_fine_skips=(1,))


def test_the_width_of_a_head_adapts_to_the_map_where_it_is_not_given() -> None:
    shape = {"block_out_channels": (8, 24, 64), "norm_num_groups": 4, "cross_attention_dim": 8, "attention_head_dim": 4}
    kinds = {"down_block_types": ("DownBlock2D",) * 3, "up_block_types": ("UpBlock2D",) * 3, "layers_per_block": 1}
    unet = RetrievalUNet(sample_size=16, **shape, **kinds, neighbor_skips=(0, 3))

    assert {name: one.head_dim for name, one in unet.attentions()} == {"0": 8, "3": 8, "mid": 32}
    with pytest.raises(ValueError, match="neighbor_head_dim: expected a divisor of 8 channels, got 16"):
        RetrievalUNet(sample_size=16, **shape, **kinds, neighbor_skips=(0, 3), neighbor_head_dim=16)
