"""A small super-resolution stage over the 64 px generator of the tests."""

from __future__ import annotations

import torch

from rag_diffusion.models.detail_codec import DetailCodec
from rag_diffusion.models.generator import noise_schedule
from rag_diffusion.models.super_resolution import SuperResolution
from rag_diffusion.models.text_encoder import TextEncoder
from rag_diffusion.models.unet import RetrievalUNet


def small_stage(text_encoder: TextEncoder, low_size: int = 64, image_size: int = 128) -> SuperResolution:
    """8 x 8 patches, random weights, text and noise level among what it is told."""
    torch.manual_seed(1)
    large = torch.rand(8, 3, image_size, image_size) * 2 - 1
    low = torch.nn.functional.avg_pool2d(large, image_size // low_size)
    unet = RetrievalUNet(
        sample_size=image_size // 8, in_channels=384, out_channels=192, block_out_channels=(32, 64),
        layers_per_block=(0, 1), norm_num_groups=8, down_block_types=("DownBlock2D",) * 2,
        mid_block_type="UNetMidBlock2D", up_block_types=("UpBlock2D",) * 2, class_embed_type="timestep",
        encoder_hid_dim=text_encoder.width, cross_attention_dim=16, addition_embed_type="text",
        addition_embed_type_num_heads=8,
    )  # fmt: skip
    return SuperResolution(
        unet=unet.eval(), codec=DetailCodec.fit([(low, large)], 8), text_encoder=text_encoder,
        schedule=noise_schedule(), image_size=image_size, low_size=low_size, max_noise_level=200,
    )  # fmt: skip
