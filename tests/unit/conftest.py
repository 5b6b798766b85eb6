"""A small generator over the real text encoder, and a neighbor table of the small corpus."""

from __future__ import annotations

import pytest
import torch

from rag_diffusion.config import Config, load_config
from rag_diffusion.models.codec import PatchCodec
from rag_diffusion.models.generator import Generator, noise_schedule
from rag_diffusion.models.text_encoder import TextEncoder
from rag_diffusion.models.unet import RetrievalUNet
from rag_diffusion.store.corpus import Corpus


@pytest.fixture(scope="session")
def default_config(request: pytest.FixtureRequest) -> Config:
    return load_config(request.config.rootpath / "params.yaml")


@pytest.fixture(scope="session")
def text_encoder() -> TextEncoder:
    # not 16, the cells of a map: diffusers would take the mask for one that is padded already
    return TextEncoder(max_tokens=15)


@pytest.fixture
def tiny_generator(text_encoder: TextEncoder, tiny_corpus: Corpus) -> Generator:
    """8x8 pixel patches of 64 px images; random weights, the neighbor attention included."""
    torch.manual_seed(0)
    unet = RetrievalUNet(
        sample_size=8, in_channels=192, out_channels=192, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("DownBlock2D", "SimpleCrossAttnDownBlock2D"), mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=16, attention_head_dim=16,
        encoder_hid_dim=text_encoder.width, addition_embed_type="text", addition_embed_type_num_heads=8,
        neighbor_skips=(1,), neighbor_head_dim=16,
    )  # fmt: skip
    for attention in unet.neighbor_attention.values():
        torch.nn.init.normal_(attention.to_out.weight, std=0.2)
    codec = PatchCodec.fit(tiny_corpus.pixels(), 8)
    return Generator(unet=unet.eval(), codec=codec, text_encoder=text_encoder, schedule=noise_schedule(), image_size=64)


@pytest.fixture(scope="session")
def tiny_neighbors(tiny_corpus: Corpus) -> dict[str, dict[str, list[str]]]:
    """Split -> pair -> the same entity in the other styles."""
    table = tiny_corpus.table
    return {
        split: {
            row.pair_id: [
                other for other in table.loc[table["entity"] == row.entity, "pair_id"] if other != row.pair_id
            ]
            for row in table[table["split"] == split].itertuples()
        }
        for split in ("train", "validation")
    }
