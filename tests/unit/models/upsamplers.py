"""A small DeepFloyd IF stage II, as diffusers itself saves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, IFSuperResolutionPipeline, UNet2DConditionModel

from tests.unit.models.bases import DEEPFLOYD
from tests.unit.models.pipelines import save

SIDE = 32
STAGE_TWO = DEEPFLOYD | {"sample_size": SIDE, "in_channels": 6, "class_embed_type": "timestep"}


def save_stage_two(folder: Path) -> Any:
    """Write one with random weights into `folder`/stage-two, which takes pictures of 8 px; returns it."""
    first = save("if", folder / "first")
    torch.manual_seed(3)
    noise = {"beta_schedule": "squaredcos_cap_v2"}
    pipeline = IFSuperResolutionPipeline(
        tokenizer=first.tokenizer, text_encoder=first.text_encoder, unet=UNet2DConditionModel(**STAGE_TWO).eval(),
        scheduler=DDPMScheduler(**noise, variance_type="learned_range"), image_noising_scheduler=DDPMScheduler(**noise),
        safety_checker=None, feature_extractor=None, watermarker=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder / "stage-two")
    return pipeline
