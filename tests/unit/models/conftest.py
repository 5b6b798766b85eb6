"""A small RetrievalUNet with random weights everywhere, the neighbor attention included."""

from __future__ import annotations

import pytest
import torch

from rag_diffusion.models.unet import RetrievalUNet

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


@pytest.fixture
def tiny_unet() -> RetrievalUNet:
    torch.manual_seed(0)
    unet = RetrievalUNet(**TINY, neighbor_skips=(1,), neighbor_head_dim=16)
    for attention in unet.neighbor_attention.values():
        torch.nn.init.normal_(attention.to_out.weight)
    return unet.eval()
