"""DeepFloyd IF stage II: the same network as in diffusers, and what is none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel

from rag_diffusion.errors import ModelError
from rag_diffusion.models.published_upsampler import load_published_upsampler
from rag_diffusion.models.unet import RetrievalUNet
from tests.unit.models.bases import DEEPFLOYD
from tests.unit.models.upsamplers import SIDE, save_stage_two


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("if")
    pipeline = save_stage_two(folder)
    return folder / "stage-two", pipeline


@torch.no_grad()
def test_it_predicts_what_diffusers_does(saved: tuple[Path, Any]) -> None:
    folder, pipeline = saved
    stage = load_published_upsampler(str(folder))
    assert (stage.low_size, stage.image_size, stage.max_noise_level) == (SIDE // 4, SIDE, 999)
    low, levels = torch.rand(2, 3, 8, 8) * 2 - 1, torch.tensor([250, 250])
    noise, sample = torch.randn(2, 3, SIDE, SIDE), torch.randn(2, 3, SIDE, SIDE)
    bound = stage.beside(low, levels, noise)
    drawn = bound.predict(sample, torch.tensor(500), stage.text_encoder(["a red ball", "a house"]), None)
    states = pipeline.encode_prompt(["a red ball", "a house"], do_classifier_free_guidance=False)[0]
    up = F.interpolate(low, (SIDE, SIDE), mode="bilinear", align_corners=True)
    shown = pipeline.image_noising_scheduler.add_noise(up, noise, timesteps=levels)
    expected = pipeline.unet(torch.cat([sample, shown], 1), 500, states, class_labels=levels).sample
    torch.testing.assert_close(drawn, expected, atol=1e-5, rtol=1e-5)
    assert stage.sample_shape == (3, SIDE, SIDE)


def test_what_is_no_second_stage_is_told(saved: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = saved
    with pytest.raises(ModelError, match="expected a pipeline of IFSuperResolutionPipeline, got IFPipeline"):
        load_published_upsampler(str(folder.parent / "first" / "pipeline"))
    with pytest.raises(ModelError, match=r"expected a super-resolution stage's folder with upsampler.json"):
        load_published_upsampler(str(tmp_path / "nothing"))
    bare = Path(shutil.copytree(folder, tmp_path / "bare"))
    index = json.loads((bare / "model_index.json").read_text())
    (bare / "model_index.json").write_text(json.dumps(index | {"text_encoder": [None, None]}))
    with pytest.raises(ModelError, match="expected the text encoder that its network reads, of width 24"):
        load_published_upsampler(str(bare))


def test_the_published_shapes_on_the_meta_device() -> None:
    """IF-II-M: 64 -> 256 px; the weights of 450 M numbers need no memory here."""
    config = DEEPFLOYD | {
        "sample_size": 256, "in_channels": 6, "class_embed_type": "timestep", "norm_num_groups": 32,
        "block_out_channels": (96, 192, 384, 384), "layers_per_block": 3, "attention_head_dim": 64,
        "cross_attention_dim": 1024, "encoder_hid_dim": 4096, "addition_embed_type_num_heads": 64,
        "down_block_types": ("ResnetDownsampleBlock2D",) * 2 + ("SimpleCrossAttnDownBlock2D",) * 2,
        "up_block_types": ("SimpleCrossAttnUpBlock2D",) * 2 + ("ResnetUpsampleBlock2D",) * 2,
    }  # fmt: skip
    with torch.device("meta"):
        ours, theirs = RetrievalUNet(**config, neighbor_head_dim=32), UNet2DConditionModel(**config)
        names = {name for name, _ in theirs.named_parameters()}
        drawn = ours(
            torch.zeros(1, 6, 256, 256), torch.zeros(()), torch.zeros(1, 77, 4096), class_labels=torch.zeros(1)
        ).sample
    assert drawn.shape == (1, 6, 256, 256)
    assert names <= {name for name, _ in ours.named_parameters()}
