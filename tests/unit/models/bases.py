"""Small U-Nets of every family that RetrievalUNet must carry, their inputs, and the published shapes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from rag_diffusion.models.unet import RetrievalUNet

LATENT = {
    "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (32, 64), "layers_per_block": 1,
    "norm_num_groups": 8, "cross_attention_dim": 16, "attention_head_dim": 4,
}  # fmt: skip
STABLE_DIFFUSION = LATENT | {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
SDXL = LATENT | {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2), "use_linear_projection": True, "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 24 + 6 * 8,
}  # fmt: skip
DEEPFLOYD = {
    "sample_size": 8, "in_channels": 3, "out_channels": 6, "block_out_channels": (32, 64), "layers_per_block": 2,
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "cross_attention_dim": 32, "attention_head_dim": 16, "encoder_hid_dim": 24, "encoder_hid_dim_type": "text_proj",
    "addition_embed_type": "text", "addition_embed_type_num_heads": 8, "resnet_time_scale_shift": "scale_shift",
    "cross_attention_norm": "group_norm", "act_fn": "gelu", "norm_num_groups": 8,
}  # fmt: skip
CLASSES = STABLE_DIFFUSION | {"num_class_embeds": 5, "center_input_sample": True}
NO_BOTTLENECK = STABLE_DIFFUSION | {"mid_block_type": None}


@dataclass(frozen=True)
class Base:
    """A family: its configuration, the width of its text, and what else its forward wants for a batch."""

    config: dict[str, Any]
    text_width: int = 16
    side: int = 8
    extra: tuple[str, ...] = field(default=())

    def inputs(self, batch: int = 3, seed: int = 1, side: int | None = None) -> dict[str, Any]:
        """Keywords of `forward`."""
        draws = torch.Generator().manual_seed(seed)
        side = side or self.side
        mask = torch.ones(batch, 7)
        mask[0, 4:] = 0
        given: dict[str, Any] = {
            "sample": torch.randn(batch, self.config["in_channels"], side, side, generator=draws),
            "timestep": torch.tensor([3.0, 500.0, 999.0, 20.0][:batch]),
            "encoder_hidden_states": torch.randn(batch, 7, self.text_width, generator=draws),
            "encoder_attention_mask": mask,
        }
        return given | self.conditions(batch, draws)

    def conditions(self, batch: int, draws: torch.Generator) -> dict[str, Any]:
        """What this family wants besides sample, timestep and text."""
        given: dict[str, Any] = {}
        if "added" in self.extra:
            embeds = torch.randn(batch, 24, generator=draws)
            given["added_cond_kwargs"] = {"text_embeds": embeds, "time_ids": torch.rand(batch, 6, generator=draws)}
        if "labels" in self.extra:
            given["class_labels"] = torch.arange(batch) % 5
        return given

    def plain(self, seed: int = 0) -> UNet2DConditionModel:
        """Diffusers' own U-Net with random weights everywhere."""
        torch.manual_seed(seed)
        return UNet2DConditionModel(**self.config).eval()


BASES = {
    "stable-diffusion": Base(STABLE_DIFFUSION),
    "sdxl": Base(SDXL, extra=("added",)),
    "deepfloyd": Base(DEEPFLOYD, text_width=24),
    "classes": Base(CLASSES, extra=("labels",)),
    "no-bottleneck": Base(NO_BOTTLENECK),
}

PUBLISHED = {
    "stable-diffusion-1.5": (
        {"sample_size": 64, "cross_attention_dim": 768},
        {"encoder_hidden_states": (1, 77, 768)},
        (1, 4, 64, 64),
    ),
    "sdxl-base-1.0": (
        {
            "sample_size": 128, "cross_attention_dim": 2048, "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": (5, 10, 20), "transformer_layers_per_block": (1, 2, 10),
            "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        {"encoder_hidden_states": (1, 77, 2048), "text_embeds": (1, 1280), "time_ids": (1, 6)},
        (1, 4, 128, 128),
    ),
    "IF-I-M": (
        {
            "sample_size": 64, "in_channels": 3, "out_channels": 6, "block_out_channels": (192, 384, 576, 768),
            "layers_per_block": 3, "attention_head_dim": 64, "cross_attention_dim": 768, "act_fn": "gelu",
            "down_block_types": ("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3),
            "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
            "up_block_types": (*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"),
            "encoder_hid_dim": 4096, "encoder_hid_dim_type": "text_proj", "addition_embed_type": "text",
            "addition_embed_type_num_heads": 64, "resnet_time_scale_shift": "scale_shift",
            "cross_attention_norm": "group_norm",
        },
        {"encoder_hidden_states": (1, 77, 4096)},
        (1, 3, 64, 64),
    ),
}  # fmt: skip

TINY = {
    "sample_size": 8,
    "in_channels": 12,
    "out_channels": 12,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "SimpleCrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 16,
    "attention_head_dim": 16,
    "encoder_hid_dim": 24,
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 8,
}


def loaded(plain: UNet2DConditionModel, folder: Path, **own: Any) -> RetrievalUNet:
    """A plain checkpoint on disk, read as RetrievalUNet, then given random neighbor attention."""
    plain.save_pretrained(folder)
    own = {"neighbor_skips": (0, 2), "neighbor_head_dim": 16} | own
    unet: RetrievalUNet = RetrievalUNet.from_pretrained(folder, **own).eval()
    torch.manual_seed(7)
    for attention in unet.neighbor_attention.values():
        attention.reset_parameters()
    unet.randomize_output(0.5)
    for name, value in unet.named_parameters():
        if "null_logit" in name:
            torch.nn.init.normal_(value)
    return unet


def features(unet: RetrievalUNet, base: Base, weights: list[list[float]]) -> Any:
    given = base.inputs(4, seed=5)
    added = {name: given[name] for name in ("class_labels", "added_cond_kwargs") if name in given}
    maps = unet.encode_neighbors(given["sample"], given["encoder_hidden_states"], **added)
    return unet.project_neighbors(maps, torch.tensor([[0, 1], [2, 3], [1, 2]]), torch.tensor(weights))


BOTH, MIXED = [[1.0, 1.0]] * 3, [[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
