"""The super-resolution stage: its codec, what noise does to it, and its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rag_diffusion.config import UpsampleModelConfig
from rag_diffusion.errors import ConfigError, ModelError
from rag_diffusion.models.detail_codec import DetailCodec, upsample
from rag_diffusion.models.super_resolution import SuperResolution, build_upsampler, load_upsampler, save_upsampler
from rag_diffusion.models.text_encoder import TextFeatures
from rag_diffusion.training.objective import add_noise


def images(count: int, size: int, seed: int = 0) -> torch.Tensor:
    """Discs of a random place, size and colour on white, antialiased."""
    draws = torch.Generator().manual_seed(seed)
    place, color = torch.rand(count, 3, generator=draws), torch.rand(count, 3, 1, 1, generator=draws) * 2 - 1
    line = (torch.arange(size) + 0.5) / size
    square = (line[None, :, None] - place[:, 0, None, None]) ** 2 + (line[None, None] - place[:, 1, None, None]) ** 2
    inside = ((0.1 + 0.3 * place[:, 2, None, None] - square.sqrt()) * size).clamp(0, 1)[:, None]
    return inside * color + (1 - inside)


def pairs(count: int, low: int, high: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    large = images(count, high, seed)
    return torch.nn.functional.avg_pool2d(large, high // low), large


@pytest.fixture
def settings(default_config: object) -> UpsampleModelConfig:
    return UpsampleModelConfig(
        low_size=16, image_size=32, patch_size=2, block_out_channels=[16, 24], layers_per_block=[0, 1],
        neighbor_skips=[1], text_encoder="embedded", max_text_tokens=16, max_noise_level=200,
    )  # fmt: skip


@pytest.fixture
def stage(settings: UpsampleModelConfig) -> SuperResolution:
    torch.manual_seed(0)
    built = build_upsampler(settings, DetailCodec.fit([pairs(32, 16, 32)], 2), "cpu")
    built.unet.eval()
    return built


def bound(stage: SuperResolution, level: int, count: int = 16) -> tuple[SuperResolution, torch.Tensor]:
    low, high = pairs(count, 16, 32, seed=1)
    noise = torch.randn(low.shape, generator=torch.Generator().manual_seed(2))
    return stage.beside(low, torch.full((count,), level), noise), high


@pytest.mark.parametrize("level", [0, 40, 200])
def test_the_codec_loses_nothing_and_its_deviations_are_those_of_details(stage: SuperResolution, level: int) -> None:
    given, high = bound(stage, level, count=256)
    z = given.codec.encode(high)
    torch.testing.assert_close(given.codec.decode(z), high, atol=1e-5, rtol=0)
    measured = z.square().mean(dim=(0, 2, 3)).sqrt()
    assert torch.allclose(measured, given.codec.std[0], rtol=0.35, atol=0.1)
    assert float(measured.square().mean()) == pytest.approx(1, rel=0.35), "unit variance at every noise level"


def test_without_noise_the_details_are_those_of_bicubic_upsampling(stage: SuperResolution) -> None:
    given, high = bound(stage, 0)
    low, _ = pairs(16, 16, 32, seed=1)
    nothing = given.codec.decode(torch.zeros_like(given.codec.encode(high)))
    torch.testing.assert_close(nothing, upsample(low, 32))


def test_a_fresh_network_is_the_linear_filter_and_a_crop_is_upsampled_as_the_whole(stage: SuperResolution) -> None:
    given, high = bound(stage, 0)
    clean = given.codec.encode(high)
    noised = add_noise(stage.schedule, clean, torch.randn_like(clean), torch.full((16,), 500))
    text = TextFeatures(torch.zeros(16, 16, stage.unet.config.encoder_hid_dim), torch.ones(16, 16))
    prediction = given.predict(noised.sample, noised.timesteps, text, None)
    signal, s = noised.alpha_cumprod.view(-1, 1, 1, 1), given.codec.std[..., None, None]
    wiener = signal.sqrt() * s**2 / (signal * s**2 + 1 - signal) * noised.sample
    estimate = signal.sqrt() * noised.sample - (1 - signal).sqrt() * prediction
    torch.testing.assert_close(estimate, wiener.float(), atol=1e-4, rtol=1e-4)
    low, _ = pairs(1, 16, 32)
    whole = upsample(low, 32)[..., 8:24, 8:24]
    part = upsample(low[..., 0:16, 0:16], 32)[..., 8:24, 8:24]
    around = upsample(low[..., 1:15, 1:15], 28)[..., 6:22, 6:22]
    torch.testing.assert_close(part, whole)
    torch.testing.assert_close(around, whole, atol=1e-5, rtol=0)


def test_text_and_noise_level_are_told_to_the_network(stage: SuperResolution) -> None:
    torch.nn.init.normal_(stage.unet.conv_out.weight, std=0.1)
    given, high = bound(stage, 40, count=2)
    sample = torch.randn_like(given.codec.encode(high))
    text = stage.text_encoder(["a red disc", "a red disc"])
    plain = given.predict(sample, torch.tensor(300), text, None)
    other_text = given.predict(sample, torch.tensor(300), stage.text_encoder(["", ""]), None)
    assert given.levels is not None
    given.levels += 100
    other_level = given.predict(sample, torch.tensor(300), text, None)
    assert not torch.allclose(plain, other_text, atol=1e-6)
    assert not torch.allclose(plain, other_level, atol=1e-6)


def test_copies_of_a_batch_are_predicted_at_once(stage: SuperResolution) -> None:
    torch.nn.init.normal_(stage.unet.conv_out.weight, std=0.1)
    given, high = bound(stage, 40, count=3)
    sample, text = torch.randn_like(given.codec.encode(high)), stage.text_encoder(["a", "b", "c"])
    once = given.predict(sample, torch.tensor(300), text, None)
    twice = given.predict(torch.cat([sample, sample]), torch.tensor(300), TextFeatures.cat([text, text]), None)
    torch.testing.assert_close(twice, torch.cat([once, once]), atol=1e-4, rtol=1e-4)


def test_a_stage_is_written_and_read_again(stage: SuperResolution, tmp_path: Path) -> None:
    torch.nn.init.normal_(stage.unet.conv_out.weight, std=0.1)
    save_upsampler(stage, tmp_path)
    again = load_upsampler(tmp_path)
    first, high = bound(stage, 0, count=2)
    second, _ = bound(again, 0, count=2)
    sample, text = torch.randn_like(first.codec.encode(high)), stage.text_encoder(["a", "b"])
    one, two = (given.predict(sample, torch.tensor(300), text, None) for given in (first, second))
    torch.testing.assert_close(one, two, atol=2e-2, rtol=0)
    assert (again.low_size, again.image_size, again.max_noise_level) == (16, 32, 200)
    (tmp_path / "codec.safetensors").unlink()
    with pytest.raises(ModelError, match="expected a super-resolution stage that fits"):
        load_upsampler(tmp_path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"image_size": 40}, "expected a multiple of low_size 16"),
        ({"image_size": 16}, "expected a multiple of low_size 16"),
        ({"patch_size": 5}, "expected a divisor of image_size 32"),
        ({"layers_per_block": [1]}, "expected sizes that fit each other"),
    ],
)
def test_sizes_that_do_not_fit_are_told(settings: UpsampleModelConfig, changes: dict[str, object], told: str) -> None:
    codec = DetailCodec.fit([pairs(4, 16, 32)], 2)
    with pytest.raises(ConfigError, match=told):
        build_upsampler(settings.model_copy(update=changes), codec, "cpu")


def test_the_codec_alone_says_what_it_lacks(stage: SuperResolution) -> None:
    with pytest.raises(ValueError, match="expected a low-resolution image, got none"):
        stage.codec.encode(torch.zeros(1, 3, 32, 32))


def test_a_stage_of_256_to_1024_has_the_same_shapes_on_the_meta_device(settings: UpsampleModelConfig) -> None:
    """The default widths at four times the size, without memory for it."""
    from rag_diffusion.models.unet import RetrievalUNet

    with torch.device("meta"):
        unet = RetrievalUNet(
            sample_size=512, in_channels=24, out_channels=12, block_out_channels=(32, 64, 96, 128),
            layers_per_block=(0, 1, 1, 1), norm_num_groups=8, time_embedding_dim=256,
            down_block_types=("DownBlock2D",) * 4, mid_block_type="UNetMidBlock2D", up_block_types=("UpBlock2D",) * 4,
            class_embed_type="timestep", encoder_hid_dim=384, cross_attention_dim=256, addition_embed_type="text",
            addition_embed_type_num_heads=8,
        )  # fmt: skip
        sample = torch.zeros(1, 24, 512, 512)
        drawn = unet(sample, torch.zeros(()), torch.zeros(1, 32, 384), class_labels=torch.zeros(1)).sample
    assert drawn.shape == (1, 12, 512, 512)
