"""Small published pipelines, as diffusers itself saves them: Stable Diffusion, Stable Diffusion XL, DeepFloyd IF."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    IFPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from tests.unit.models.bases import DEEPFLOYD, SDXL, STABLE_DIFFUSION

LETTERS = "abcdefghijklmnopqrstuvwxyz,-"
_LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def save(family: str, folder: Path) -> Any:
    """Write a pipeline with random weights; returns it."""
    torch.manual_seed(0)
    pipeline = {"sd": _stable_diffusion, "sdxl": _stable_diffusion_xl, "if": _deepfloyd}[family](folder / "vocabulary")
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder / "pipeline")
    return pipeline


def _stable_diffusion(folder: Path) -> Any:
    tokenizer = _clip_tokenizer(folder)
    return StableDiffusionPipeline(
        vae=_vae(), text_encoder=CLIPTextModel(_clip(tokenizer, 16)).eval(), tokenizer=tokenizer,
        unet=UNet2DConditionModel(**STABLE_DIFFUSION).eval(), scheduler=DDIMScheduler(**_LATENT),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def _stable_diffusion_xl(folder: Path) -> Any:
    tokenizer = _clip_tokenizer(folder)
    wide = SDXL | {"cross_attention_dim": 16 + 24}
    return StableDiffusionXLPipeline(
        vae=_vae(), text_encoder=CLIPTextModel(_clip(tokenizer, 16)).eval(), tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(_clip(tokenizer, 24)).eval(), tokenizer_2=tokenizer,
        unet=UNet2DConditionModel(**wide).eval(), scheduler=DDIMScheduler(**_LATENT), add_watermarker=False,
    )  # fmt: skip


def _deepfloyd(folder: Path) -> Any:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -2.0), *((letter, -1.0) for letter in "▁" + LETTERS)]
    config = T5Config(vocab_size=64, d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    return IFPipeline(
        tokenizer=T5Tokenizer(vocab=pieces, extra_ids=0), text_encoder=T5EncoderModel(config).eval(),
        unet=UNet2DConditionModel(**DEEPFLOYD).eval(),
        scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2", variance_type="learned_range"),
        safety_checker=None, feature_extractor=None, watermarker=None, requires_safety_checker=False,
    )  # fmt: skip


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 16), latent_channels=4, norm_num_groups=8, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).eval()  # fmt: skip


def _clip(tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=16, projection_dim=24,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip


def _clip_tokenizer(folder: Path) -> CLIPTokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=16)
