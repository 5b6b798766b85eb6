"""What people do to diffusers' U-Nets must work on RetrievalUNet with neighbors as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from rag_diffusion.errors import ConfigError
from rag_diffusion.models.trainable import train_parts
from rag_diffusion.models.unet import RetrievalUNet
from rag_diffusion.models.unet_split import Conditions, encode
from tests.unit.models.bases import BASES, BOTH, features, loaded

SD = BASES["stable-diffusion"]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[UNet2DConditionModel, RetrievalUNet]:
    """A base, and the same with random neighbor attention."""
    plain = SD.plain()
    return plain, loaded(plain, tmp_path)


def shapes(plain: UNet2DConditionModel) -> tuple[list[torch.Size], torch.Size]:
    """Of the skip maps and the bottleneck."""
    with torch.no_grad():
        encoded = encode(plain, **seam(SD.inputs()))
    return [skip.shape for skip in encoded.skips], encoded.mid.shape


def seam(given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `encode`."""
    conditions = Conditions(text=given["encoder_hidden_states"], text_mask=given["encoder_attention_mask"])
    return {"sample": given["sample"], "timestep": given["timestep"], "conditions": conditions}


def controlnet(plain: UNet2DConditionModel) -> dict[str, Any]:
    skips, mid = shapes(plain)
    draws = torch.Generator().manual_seed(3)
    return {
        "down_block_additional_residuals": [torch.randn(shape, generator=draws) for shape in skips],
        "mid_block_additional_residual": torch.randn(mid, generator=draws),
    }


def adapter(plain: UNet2DConditionModel) -> dict[str, Any]:
    """One residual a block, added before it makes its map smaller; the last is for the bottleneck."""
    draws = torch.Generator().manual_seed(4)
    skips, mid = shapes(plain)
    first, second = skips[1], skips[-1]
    shaped = [torch.randn(shape, generator=draws) for shape in (first, second, mid)]
    return {"down_intrablock_additional_residuals": shaped}


@pytest.mark.parametrize("kind", [controlnet, adapter])
@torch.no_grad()
def test_residuals_of_other_networks(pair: tuple[UNet2DConditionModel, RetrievalUNet], kind: Any) -> None:
    plain, unet = pair
    given, residuals = SD.inputs(), kind(plain)
    copy = {name: list(value) if isinstance(value, list) else value for name, value in residuals.items()}
    expected = plain(**given, **copy).sample  # diffusers empties a T2I list
    assert torch.equal(unet(**given, **residuals).sample, expected)
    assert torch.equal(unet(**given, **residuals).sample, expected)
    kv = features(unet, SD, BOTH)
    with_both = unet(**given, **residuals, neighbors=kv).sample
    assert not torch.allclose(with_both, expected, atol=1e-3)
    assert not torch.allclose(with_both, unet(**given, neighbors=kv).sample, atol=1e-3)


@torch.no_grad()
def test_freeu(pair: tuple[UNet2DConditionModel, RetrievalUNet]) -> None:
    plain, unet = pair
    for one in (plain, unet):
        one.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    given = SD.inputs()
    assert torch.equal(unet(**given).sample, plain(**given).sample)
    plain.disable_freeu()
    assert not torch.equal(unet(**given).sample, plain(**given).sample)


def test_gradient_checkpointing_gives_the_same_gradients(pair: tuple[UNet2DConditionModel, RetrievalUNet]) -> None:
    _, unet = pair
    found = []
    for checkpointed in (False, True):
        unet.train().zero_grad()
        if checkpointed:
            unet.enable_gradient_checkpointing()
        unet(**SD.inputs(), neighbors=features(unet, SD, BOTH)).sample.square().mean().backward()
        found.append({name: value.grad.clone() for name, value in unet.named_parameters() if value.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_lora_scale_reaches_the_base_and_leaves_the_neighbors(tmp_path: Path) -> None:
    unet = loaded(SD.plain(), tmp_path)
    given, kv = SD.inputs(), features(unet, SD, BOTH)
    before = unet(**given, neighbors=kv).sample
    train_parts(unet, "lora", lora_rank=4)
    for name, value in unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value)
    scaled = unet(**given, cross_attention_kwargs={"scale": 1.0}, neighbors=kv).sample
    assert not torch.allclose(scaled, before, atol=1e-3)
    off = unet(**given, cross_attention_kwargs={"scale": 0.0}, neighbors=kv).sample
    torch.testing.assert_close(off, before, atol=1e-5, rtol=1e-5)
    assert not any("neighbor_attention" in name for name, _ in unet.named_parameters() if "lora" in name)


def test_training_the_neighbors_alone_leaves_the_base_untouched(tmp_path: Path) -> None:
    plain = SD.plain()
    unet = loaded(plain, tmp_path)
    trained = train_parts(unet, "neighbors")
    assert trained
    assert all(name.startswith("neighbor_attention.") for name in trained)
    optimizer = torch.optim.AdamW(trained.values(), lr=0.01)
    given = SD.inputs()
    for _ in range(3):
        unet(**given, neighbors=features(unet, SD, BOTH)).sample.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        assert torch.equal(unet(**given).sample, plain(**given).sample)


def test_all_parts_and_unknown_parts(tmp_path: Path) -> None:
    unet = loaded(SD.plain(), tmp_path)
    assert train_parts(unet, "all").keys() == dict(unet.named_parameters()).keys()
    with pytest.raises(ConfigError, match="expected one of all, neighbors, lora, decoder, got 'some'"):
        train_parts(unet, "some")


def test_a_checkpoint_with_nan_or_of_another_architecture_is_refused(tmp_path: Path) -> None:
    plain = SD.plain()
    with torch.no_grad():
        plain.conv_in.weight[0] = float("nan")
    plain.save_pretrained(tmp_path / "nan")
    with pytest.raises(ValueError, match=r"expected finite weights, got NaN or infinity in \['conv_in.weight'\]"):
        RetrievalUNet.from_pretrained(tmp_path / "nan")


@torch.no_grad()
def test_gligen_grounds_the_image_and_not_its_neighbors(tmp_path: Path) -> None:
    gated = {"attention_type": "gated", "cross_attention_dim": 16}
    torch.manual_seed(0)
    plain = UNet2DConditionModel(**SD.config | gated).eval()
    for name, value in plain.named_parameters():
        if "alpha_" in name:  # the gates, which start closed
            torch.nn.init.ones_(value)
    unet = loaded(plain, tmp_path)
    draws = torch.Generator().manual_seed(5)
    objects = {
        "boxes": torch.rand(3, 4, 4, generator=draws),
        "masks": torch.ones(3, 4),
        "positive_embeddings": torch.randn(3, 4, 16, generator=draws),
    }
    given = SD.inputs() | {"cross_attention_kwargs": {"gligen": objects}}
    grounded = plain(**given).sample
    assert not torch.equal(grounded, plain(**SD.inputs()).sample)
    assert torch.equal(unet(**given).sample, grounded)
    kv = features(unet, SD, BOTH)
    both = unet(**given, neighbors=kv, and_without=True).sample
    torch.testing.assert_close(both[3:], grounded, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both[:3], unet(**given, neighbors=kv).sample, atol=1e-5, rtol=1e-5)
