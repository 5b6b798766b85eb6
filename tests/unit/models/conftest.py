"""A small RetrievalUNet with random weights everywhere, the neighbor attention included."""

from __future__ import annotations

import pytest
import torch

from rag_diffusion.models.unet import RetrievalUNet
from tests.unit.models.bases import TINY


@pytest.fixture
def tiny_unet() -> RetrievalUNet:
    torch.manual_seed(0)
    unet = RetrievalUNet(**TINY, neighbor_skips=(1,), neighbor_head_dim=16)
    for attention in unet.neighbor_attention.values():
        torch.nn.init.normal_(attention.to_out.weight)
    return unet.eval()
