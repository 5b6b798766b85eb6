"""Parts of small pipelines of every family, and a call with a neighbor that is looked at."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rag_diffusion.models.codec import PatchCodec
from rag_diffusion.models.generator import Generator, noise_schedule
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.models.text_encoder import TextEncoder
from rag_diffusion.models.unet import RetrievalUNet
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from tests.unit.models.bases import TINY
from tests.unit.models.pipelines import save
from tests.unit.sampling.prompts import ours


def components(family: str) -> dict[str, Any]:
    """Parts by the names of the constructor."""
    if family == "own":
        return RetrievalPipeline(own()).components
    with tempfile.TemporaryDirectory() as folder:
        pipe = ours(save(family, Path(folder)))
    return pipe.components


def own() -> Generator:
    """A generator of this project: patches of 2 x 2 pixels, 16 x 16 pixels."""
    torch.manual_seed(0)
    encoder = TextEncoder(max_tokens=15)
    unet = RetrievalUNet(**TINY | {"encoder_hid_dim": encoder.width, "neighbor_skips": (1,), "neighbor_head_dim": 16})
    unet.randomize_output(0.5)
    unet.half().float()  # as its weights are saved
    pixels = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), dtype=np.uint8)
    return Generator(
        unet=unet, codec=PatchCodec.fit(pixels, 2), text_encoder=encoder, schedule=noise_schedule(), image_size=16
    )


def inputs(*, shown: bool = True) -> dict[str, Any]:
    """Arguments of a drawing with a neighbor, or with none."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return {
        "prompt": "a red dot, a blue ring",
        **(
            {"neighbors": [Neighbor(image=pixels, caption="a ring", pair_id="ring")]} if shown else {"num_neighbors": 0}
        ),
        "generator": torch.Generator().manual_seed(0),
        "num_inference_steps": 2,
        "guidance_scale": 6.0,
        "output_type": "pt",
    }
