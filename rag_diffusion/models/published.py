"""Published pipelines of diffusers as generators: Stable Diffusion 1 and 2, Stable Diffusion XL, DeepFloyd IF.

Their U-Net is read as a RetrievalUNet, whose neighbor attention starts as zero; VAE, text encoders, tokenizers and
schedule stay theirs, and texts go through the pipeline's own `encode_prompt`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DDPMScheduler, DiffusionPipeline

from rag_diffusion.errors import ModelError
from rag_diffusion.models.codec import Codec, LatentCodec, PixelCodec
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.text_encoder import TextFeatures
from rag_diffusion.models.unet import RetrievalUNet

FAMILIES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "IFPipeline")
_HUB = ("revision", "cache_dir", "token", "local_files_only", "force_download", "proxies")
_LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder", "watermarker")  # none of them draws


class PublishedText:
    """Texts through a published pipeline's own encoders.

    Args:
        pipeline: one of `FAMILIES`.
        image_size: side in pixels, which Stable Diffusion XL is told.
    """

    def __init__(self, pipeline: Any, image_size: int) -> None:
        self._pipeline, self._image_size = pipeline, image_size

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> TextFeatures:
        """Encode B texts; the pipeline itself says which part of a long one was cut."""
        pipeline, device = self._pipeline, self._pipeline._execution_device
        options = {"device": device, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
        encoded = pipeline.encode_prompt(list(texts), **options)
        if not isinstance(pipeline, diffusers.StableDiffusionXLPipeline):
            return TextFeatures(encoded[0])
        states, pooled = encoded[0], encoded[2]
        if pipeline.config.force_zeros_for_empty_prompt:
            seen = torch.tensor([bool(text) for text in texts], device=states.device)
            states, pooled = states * seen[:, None, None], pooled * seen[:, None]
        side = (self._image_size, self._image_size)
        width = pipeline.text_encoder_2.config.projection_dim
        sizes = pipeline._get_add_time_ids(side, (0, 0), side, pooled.dtype, text_encoder_projection_dim=width)
        time_ids = sizes.to(states.device).expand(len(texts), -1)
        return TextFeatures(states, added={"text_embeds": pooled, "time_ids": time_ids})

    def to(self, device: torch.device | str) -> None:
        """Move the whole pipeline to `device`."""
        self._pipeline.to(device)


def load_published(name: str, device: torch.device | str, **options: Any) -> Generator:
    """Read a pipeline of `FAMILIES`.

    Args:
        name: folder or hub name.
        device: where it is to live.
        **options: of `RetrievalUNet.from_pretrained`.

    Raises:
        ModelError: it cannot be had, or is of another family.
    """
    hub = {key: value for key, value in options.items() if key in _HUB}
    try:
        index = DiffusionPipeline.load_config(name, **hub)
        family = index["_class_name"]
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{name}: expected a generator's folder with generator.json, or a diffusers pipeline by folder or hub "
            f"name, got: {str(error).strip().splitlines()[0]}; "
            "run `rag-diffusion base promote`, or set finetune.base to another base"
        ) from None
    if family not in FAMILIES:
        raise ModelError(f"{name}: expected a pipeline of {', '.join(FAMILIES)}, got {family}; use one of those")
    try:
        unet = RetrievalUNet.from_pretrained(name, subfolder="unet", use_safetensors=True, **options)
        cls = getattr(diffusers, family)
        dropped = {part: None for part in _LEFT_OUT if part in index}
        quiet = {"requires_safety_checker": False} if "safety_checker" in index else {}
        shared = {key: value for key, value in options.items() if key in ("variant", "torch_dtype")}
        safe = {"trust_remote_code": False, "use_safetensors": True}  # whoever made it runs no code here
        pipeline = cls.from_pretrained(name, unet=unet, **dropped, **quiet, **shared, **hub, **safe)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{name}: expected a complete {family}, got: {str(error).strip().splitlines()[0]}; download it again, "
            "or name the variant that is there"
        ) from None
    return as_generator(pipeline.to(device))


def save_published(pipeline: Any, folder: Path) -> None:
    """Write `pipeline` into `folder` so that diffusers itself reads it as well, as a plain one without neighbors."""
    pipeline.save_pretrained(folder)
    index = folder / "model_index.json"
    parts = json.loads(index.read_text()) | {"unet": ["diffusers", "UNet2DConditionModel"]}
    parts.pop("_name_or_path", None)
    index.write_text(json.dumps(parts, indent=2) + "\n")


def as_generator(pipeline: Any) -> Generator:
    """A generator over the parts of `pipeline`, one of diffusers whose U-Net is a RetrievalUNet."""
    vae = getattr(pipeline, "vae", None)
    codec: Codec = PixelCodec() if vae is None else LatentCodec(vae=vae)
    scale = 1 if vae is None else 2 ** (len(vae.config.block_out_channels) - 1)
    image_size = pipeline.unet.config.sample_size * scale
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module) and part is not pipeline.unet:
            part.eval().requires_grad_(False)
    return Generator(
        unet=pipeline.unet.eval(),
        codec=codec,
        text_encoder=PublishedText(pipeline, image_size),
        schedule=DDPMScheduler.from_config(pipeline.scheduler.config),
        image_size=image_size,
        published=pipeline,
        saved_scheduler=type(pipeline.scheduler).__name__,
    )
