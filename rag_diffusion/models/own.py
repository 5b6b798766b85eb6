"""Generators of the project's own: pixels in patches, preconditioned v-prediction, and a folder that holds one.

unet/                  RetrievalUNet as diffusers saves it
codec.safetensors      basis, mean and deviation of the patches
generator.json         image size, patch size, text encoder
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.utils import logging
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rag_diffusion.config import ModelConfig
from rag_diffusion.errors import ConfigError, ModelError
from rag_diffusion.models.codec import PatchCodec
from rag_diffusion.models.generator import Generator, noise_schedule
from rag_diffusion.models.text_encoder import TextEncoder
from rag_diffusion.models.unet import RetrievalUNet

SPEC, CODEC = "generator.json", "codec.safetensors"
_log = logging.get_logger("diffusers.pipelines.pipeline_utils")  # which tells of parts that are loaded
_TEXT_SIDE = 8  # the largest maps with attention to the text: on larger ones it costs most and helps least


def build_generator(config: ModelConfig, codec: PatchCodec, image_size: int, device: torch.device | str) -> Generator:
    """A new generator with random weights.

    Args:
        config: the architecture.
        codec: fitted to the images it is to draw.
        image_size: side in pixels.
        device: where it is to live.

    Raises:
        ConfigError: the sizes do not fit each other.
    """
    if image_size % config.patch_size:
        raise ConfigError(
            f"model.patch_size: expected a divisor of corpus.image_size {image_size}, got {config.patch_size}"
        )
    text_encoder = TextEncoder(config.text_encoder, config.max_text_tokens, device)
    widths, side = config.block_out_channels, image_size // config.patch_size
    levels = len(widths)
    attended = [level for level in range(1, levels) if side >> level <= _TEXT_SIDE]
    try:
        unet = RetrievalUNet(
            sample_size=side,
            in_channels=3 * config.patch_size**2,
            out_channels=3 * config.patch_size**2,
            block_out_channels=tuple(widths),
            layers_per_block=config.layers_per_block,
            norm_num_groups=min(32, widths[0] // 4),
            time_embedding_dim=3 * max(widths),
            down_block_types=tuple(
                "SimpleCrossAttnDownBlock2D" if level in attended else "DownBlock2D" for level in range(levels)
            ),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=tuple(
                "SimpleCrossAttnUpBlock2D" if level in attended else "UpBlock2D" for level in reversed(range(levels))
            ),
            cross_attention_dim=256,
            attention_head_dim=32,
            encoder_hid_dim=text_encoder.width,
            addition_embed_type="text",
            addition_embed_type_num_heads=8,
            neighbor_skips=tuple(config.neighbor_skips),
            neighbor_head_dim=config.neighbor_head_dim,
            separate_neighbor_encoder=config.neighbor_encoder == "separate",
            neighbor_fine_skips=tuple(config.neighbor_fine_skips),
            neighbor_fine_dim=config.neighbor_fine_dim,
            neighbor_free_heads=config.neighbor_free_heads,
            neighbor_roles=config.neighbor_roles,
        )
    except ValueError as error:
        raise ConfigError(f"model: expected sizes that fit each other, got: {error}") from None
    torch.nn.init.zeros_(unet.conv_out.weight)  # F = 0: start as the Wiener filter
    unet.randomize_output()  # from scratch there is no base to preserve, and zeros start slower
    return Generator(
        unet=unet.to(device),
        codec=codec.to(device),
        text_encoder=text_encoder,
        schedule=noise_schedule(),
        image_size=image_size,
    )


def own_of(unet: RetrievalUNet | None, codec: PatchCodec, model: Any, tokenizer: Any, scheduler: Any) -> Generator:
    """A generator out of its parts, none of which is copied.

    Args:
        unet: the network.
        codec: images to its input and back.
        model: encoder of the texts, of transformers; None draws from embeddings alone.
        tokenizer: its tokenizer.
        scheduler: of diffusers, with the variance schedule that the network was trained with; None is the project's.

    Raises:
        ModelError: the network is missing.
    """
    if unet is None:
        raise ModelError("unet: expected one beside the codec, got None; a pipeline without it cannot draw")
    return Generator(
        unet=unet.eval(),
        codec=codec,
        text_encoder=TextEncoder.of(model, tokenizer, unet.config.encoder_hid_dim),
        schedule=noise_schedule() if scheduler is None else DDPMScheduler.from_config(scheduler.config),
        image_size=unet.config.sample_size * codec.patch_size,
        saved_scheduler=None if scheduler is None else type(scheduler).__name__,
    )


def save_own(generator: Generator, folder: Path, **options: Any) -> None:
    """Write a generator of the project, weights in float16.

    Args:
        generator: that one.
        folder: exists.
        **options: of diffusers' `save_pretrained`, for the U-Net.
    """
    codec = generator.codec
    assert isinstance(codec, PatchCodec)
    write_weights(generator, folder, SPEC, codec.state(), options, patch_size=codec.patch_size)


def write_weights(
    generator: Generator,
    folder: Path,
    spec: str,
    codec: Mapping[str, torch.Tensor],
    options: Mapping[str, Any] | None = None,
    **facts: int,
) -> None:
    """Write a generator of ours in parts: the U-Net in float16, the codec, and what both were made for.

    Args:
        generator: with a text encoder of ours.
        folder: exists.
        spec: name of the JSON file of facts.
        codec: its tensors by name.
        options: of diffusers' `save_pretrained`, for the U-Net.
        **facts: more of them than image size and text encoder.
    """
    text_encoder = generator.text_encoder
    assert isinstance(text_encoder, TextEncoder)
    state = {name: value.detach().to("cpu", torch.float16) for name, value in generator.unet.state_dict().items()}
    config = {name: value for name, value in generator.unet.config.items() if name != "_name_or_path"}
    half = RetrievalUNet.from_config(config)
    half.load_state_dict(state)
    half.half().save_pretrained(folder / "unet", **options or {})
    save_file({name: value.cpu().contiguous() for name, value in codec.items()}, folder / CODEC)
    made_for = facts | {
        "image_size": generator.image_size,
        "text_encoder": text_encoder.name,
        "max_text_tokens": text_encoder.max_tokens,
    }
    (folder / spec).write_text(json.dumps(made_for, indent=1, sort_keys=True) + "\n")


def load_own(folder: Path, device: torch.device | str, text_encoder: str = "", **extensions: Any) -> Generator:
    """Read a folder that `save_own` wrote, in float32.

    Args:
        folder: that one.
        device: where it is to live.
        text_encoder: name or path in place of the one that is named there, a copy of it elsewhere; empty: that one.
        **extensions: of `RetrievalUNet`, `neighbor_fine_skips` or `neighbor_roles` for example, that it had not; they
            start so that the network stays what it is. `variant` of the weights; `torch_dtype` in place of float32.

    Raises:
        ModelError: the folder is incomplete, or its weights have another shape.
    """
    dtype = extensions.pop("dtype", None) or extensions.pop("torch_dtype", None)
    try:
        spec = json.loads((folder / SPEC).read_text())
        unet = RetrievalUNet.from_pretrained(folder / "unet", torch_dtype=dtype_of("unet", dtype), **extensions)
        codec = PatchCodec(patch_size=spec["patch_size"], **load_file(folder / CODEC))
        name, tokens, image_size = text_encoder or spec["text_encoder"], spec["max_text_tokens"], spec["image_size"]
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"{folder}: expected weights that fit unet/config.json, got: {str(error).strip().splitlines()[0]}; "
            "restore the folder or train it again"
        ) from None
    encoder = TextEncoder(name, tokens, device)
    encoder.model.to(dtype_of("text_encoder", dtype))
    _log.info(f"Loaded unet, codec, scheduler of {folder} and text_encoder, tokenizer of {name}.")
    return Generator(
        unet=unet.to(device).eval(),
        codec=codec.to(device),
        text_encoder=encoder,
        schedule=noise_schedule(),
        image_size=image_size,
        saved_scheduler=_saved_scheduler(folder),
    )


def dtype_of(part: str, dtype: torch.dtype | Mapping[str, torch.dtype] | None) -> torch.dtype:
    """The type of a part's weights.

    Args:
        part: by diffusers' name.
        dtype: of all, or a dictionary by part with a `default`; None is float32.
    """
    if isinstance(dtype, Mapping):
        return dtype.get(part, dtype.get("default", torch.float32))
    return dtype or torch.float32


def _saved_scheduler(folder: Path) -> str | None:
    path = folder / "scheduler" / "scheduler_config.json"
    return json.loads(path.read_text())["_class_name"] if path.exists() else None
