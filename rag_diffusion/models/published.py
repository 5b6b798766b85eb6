"""Published pipelines of diffusers as generators: Stable Diffusion 1 and 2, Stable Diffusion XL, DeepFloyd IF.

Their U-Net is read as a RetrievalUNet, whose neighbor attention starts as zero; VAE, text encoders, tokenizers and
schedule stay theirs, and texts go through the pipeline's own `encode_prompt`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from diffusers.utils import logging, scale_lora_layers, unscale_lora_layers

from rag_diffusion.errors import ModelError
from rag_diffusion.models.codec import Codec, LatentCodec, PixelCodec
from rag_diffusion.models.generator import Generator, noise_schedule
from rag_diffusion.models.own import dtype_of
from rag_diffusion.models.shared_weights import with_neighbors
from rag_diffusion.models.text_encoder import NO_ENCODER, TextEncoder, TextFeatures
from rag_diffusion.models.unet import RetrievalUNet

FAMILIES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "IFPipeline")
_HUB = ("revision", "cache_dir", "token", "local_files_only", "force_download", "proxies")
_LATENT = ("vae", "text_encoder", "tokenizer", "image_encoder", "feature_extractor")
_log = logging.get_logger("diffusers.pipelines.pipeline_utils")  # which tells of the other parts
_LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder", "watermarker")  # none of them draws


class PublishedText:
    """Texts through a published pipeline's own encoders.

    Args:
        pipeline: one of `FAMILIES`.
        size: (H, W) of a drawing in pixels, which Stable Diffusion XL is told.
        options: of the pipeline's `encode_prompt`: `clip_skip`, `lora_scale`.
    """

    def __init__(self, pipeline: Any, size: tuple[int, int], options: Mapping[str, Any] | None = None) -> None:
        self._pipeline, self._size, self._options = pipeline, size, dict(options or {})

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> TextFeatures:
        """Encode B texts; the pipeline itself says which part of a long one was cut."""
        pipeline, device = self._pipeline, self._pipeline._execution_device
        if pipeline.tokenizer is None and getattr(pipeline, "tokenizer_2", None) is None:
            raise ModelError(NO_ENCODER)
        options = {"device": device, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
        if "clip_skip" in self._options and isinstance(pipeline, diffusers.StableDiffusionPipeline):
            return TextFeatures(self._with_layers_left_out(list(texts), **self._options))
        encoded = pipeline.encode_prompt(list(texts), **options, **self._options)
        if not isinstance(pipeline, diffusers.StableDiffusionXLPipeline):
            return TextFeatures(encoded[0])
        states, pooled = encoded[0], encoded[2]
        if pipeline.config.force_zeros_for_empty_prompt:
            seen = torch.tensor([bool(text) for text in texts], device=states.device)
            states, pooled = states * seen[:, None, None], pooled * seen[:, None]
        return self.features(states, pooled)

    def _with_layers_left_out(self, texts: list[str], clip_skip: int, lora_scale: float = 1.0) -> torch.Tensor:
        """What `encode_prompt` of Stable Diffusion gives, which of diffusers 0.42 fails beside transformers 5."""
        pipeline, tokenizer, encoder = self._pipeline, self._pipeline.tokenizer, self._pipeline.text_encoder
        converted = pipeline.maybe_convert_prompt(texts, tokenizer)
        length = {"padding": "max_length", "max_length": tokenizer.model_max_length, "truncation": True}
        tokens = tokenizer(converted, return_tensors="pt", **length).input_ids.to(pipeline._execution_device)
        scale_lora_layers(encoder, lora_scale)
        hidden = encoder(tokens, output_hidden_states=True).hidden_states
        unscale_lora_layers(encoder, lora_scale)
        if not 0 <= clip_skip < len(hidden):
            raise ValueError(
                f"clip_skip: expected 0 to {len(hidden) - 1}, the layers of the text encoder, got {clip_skip}"
            )
        states: torch.Tensor = getattr(encoder, "text_model", encoder).final_layer_norm(hidden[-(clip_skip + 1)])
        return states

    def features(self, states: torch.Tensor, pooled: torch.Tensor | None = None) -> TextFeatures:
        """Features out of embeddings that `encode_prompt` of the pipeline made.

        Args:
            states: (B, L, D).
            pooled: (B, D') of Stable Diffusion XL.

        Raises:
            ValueError: pooled ones are missing, or there are none of this family.
        """
        pipeline = self._pipeline
        large = isinstance(pipeline, diffusers.StableDiffusionXLPipeline)
        if large == (pooled is None):
            wanted = "pooled_prompt_embeds beside prompt_embeds" if large else "prompt_embeds alone"
            raise ValueError(f"prompt_embeds: expected {wanted}, as encode_prompt of this pipeline gives them")
        if pooled is None:
            return TextFeatures(states)
        sizes = pipeline._get_add_time_ids(
            self._size, (0, 0), self._size, pooled.dtype, text_encoder_projection_dim=pooled.shape[-1]
        )
        time_ids = sizes.to(states.device).expand(len(states), -1)
        return TextFeatures(states, added={"text_embeds": pooled, "time_ids": time_ids})

    def told(
        self, size: tuple[int, int], clip_skip: int | None = None, lora_scale: float | None = None
    ) -> PublishedText:
        """The same for drawings of another size, or otherwise encoded.

        Args:
            size: (H, W) in pixels.
            clip_skip: layers of CLIP that are left out, from the last one on; None is none.
            lora_scale: weight of LoRA in the text encoders.

        Raises:
            ValueError: the family does not know one of them.
        """
        given = {"clip_skip": clip_skip, "lora_scale": lora_scale}
        known = inspect.signature(self._pipeline.encode_prompt).parameters
        if clip_skip is not None and "clip_skip" not in known:
            raise ValueError(f"clip_skip: expected None, as this pipeline's text encoder is no CLIP, got {clip_skip}")
        options = {name: value for name, value in given.items() if value is not None and name in known}
        return PublishedText(self._pipeline, size, options)

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
        of_unet = options | {key: dtype_of("unet", options[key]) for key in ("torch_dtype", "dtype") if key in options}
        unet = RetrievalUNet.from_pretrained(name, subfolder="unet", use_safetensors=True, **of_unet)
        _log.info(f"Loaded unet as RetrievalUNet from `unet` subfolder of {name}.")
        cls = getattr(diffusers, family)
        dropped = {part: None for part in _LEFT_OUT if part in index}
        quiet = {"requires_safety_checker": False} if "safety_checker" in index else {}
        shared = {key: value for key, value in options.items() if key in ("variant", "torch_dtype", "dtype")}
        safe = {"trust_remote_code": False, "use_safetensors": True}  # whoever made it runs no code here
        pipeline = cls.from_pretrained(name, unet=unet, **dropped, **quiet, **shared, **hub, **safe)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{name}: expected a complete {family}, got: {str(error).strip().splitlines()[0]}; download it again, "
            "or name the variant that is there"
        ) from None
    return as_generator(pipeline.to(device))


def save_published(pipeline: Any, folder: Path, **options: Any) -> None:
    """Write a pipeline so that diffusers itself reads it as well, as a plain one without neighbors.

    Args:
        pipeline: of diffusers.
        folder: where to.
        **options: of its `save_pretrained`.
    """
    pipeline.save_pretrained(folder, **options)
    index = folder / "model_index.json"
    parts = json.loads(index.read_text()) | {"unet": ["diffusers", "UNet2DConditionModel"]}
    parts.pop("_name_or_path", None)
    index.write_text(json.dumps(parts, indent=2) + "\n")


def as_generator(pipeline: Any) -> Generator:
    """A generator over the parts of `pipeline`, one of diffusers whose U-Net is a RetrievalUNet, or is not there."""
    vae, unet = getattr(pipeline, "vae", None), pipeline.unet
    if unet is not None and unet.config.time_cond_proj_dim is not None:
        raise ModelError(
            "unet: expected one that is guided by the difference of two predictions, got one that was distilled to "
            "consistency (LCM), to which the guidance scale is an input; take the base that it was made of"
        )
    codec: Codec = PixelCodec() if vae is None else LatentCodec(vae=vae)
    scale = 1 if vae is None else 2 ** (len(vae.config.block_out_channels) - 1)
    image_size = 0 if unet is None else unet.config.sample_size * scale
    scheduler = pipeline.scheduler or DDPMScheduler()
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module) and part is not pipeline.unet:
            part.eval().requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    network: Any = unet if unet is None else unet.eval()
    return Generator(
        unet=network,
        codec=codec,
        text_encoder=PublishedText(pipeline, (image_size, image_size)),
        schedule=DDPMScheduler.from_config(scheduler.config),
        image_size=image_size,
        published=pipeline,
        saved_scheduler=type(scheduler).__name__,
    )


def generator_of(unet: Any, scheduler: Any, parts: Mapping[str, Any], *, force_zeros: bool = True) -> Generator:
    """A generator of a published family out of its parts, none of which is copied.

    Args:
        unet: of diffusers, or a RetrievalUNet; a plain one gets neighbor attention, see `with_neighbors`.
        scheduler: of diffusers, with the betas that the network was trained with.
        parts: the others by diffusers' names, `vae`, `text_encoder`, `tokenizer`, ...; None where there is none.
        force_zeros: whether the empty prompt of Stable Diffusion XL is zeros.

    Raises:
        ModelError: the U-Net or the scheduler is missing, and there are no texts to be encoded either.
    """
    family = _family(unet, parts)
    if unet is not None and scheduler is None:
        raise ModelError("scheduler: expected one, got None; a pipeline without it cannot draw")
    if family is None:
        return _own_texts_alone(parts["text_encoder"], parts.get("tokenizer"))
    given = {"unet": None if unet is None else with_neighbors(unet), "scheduler": scheduler}
    names: tuple[str, ...] = _LATENT
    options: dict[str, Any] = {"safety_checker": None, "requires_safety_checker": False}
    if family is diffusers.StableDiffusionXLPipeline:
        names = (*_LATENT, "text_encoder_2", "tokenizer_2")
        options = {"add_watermarker": False, "force_zeros_for_empty_prompt": force_zeros}
    elif family is diffusers.IFPipeline:
        names, options = ("text_encoder", "tokenizer"), options | {"feature_extractor": None, "watermarker": None}
    return as_generator(family(**given, **{name: parts.get(name) for name in names}, **options))


def _family(unet: Any, parts: Mapping[str, Any]) -> Any:
    """Class of the pipeline that a U-Net belongs to, or text encoders alone; None is this project's encoder."""
    if unet is None:
        if parts.get("text_encoder") is None:
            raise ModelError("unet: expected one, got None; a pipeline without it cannot draw")
        if parts.get("text_encoder_2") is not None:
            return diffusers.StableDiffusionXLPipeline
        kind = parts["text_encoder"].config.model_type
        named = {"clip": diffusers.StableDiffusionPipeline, "t5": diffusers.IFPipeline}
        return next((family for start, family in named.items() if kind.startswith(start)), None)
    if unet.config.addition_embed_type == "text_time":
        return diffusers.StableDiffusionXLPipeline
    pixels = parts.get("vae") is None and unet.config.encoder_hid_dim_type == "text_proj"
    return diffusers.IFPipeline if pixels else diffusers.StableDiffusionPipeline


def _own_texts_alone(model: Any, tokenizer: Any) -> Generator:
    """What encodes prompts by the text encoder of this project, and draws nothing."""
    unused: Any = None
    encoder = TextEncoder.of(model, tokenizer)
    return Generator(unet=unused, codec=PixelCodec(), text_encoder=encoder, schedule=noise_schedule(), image_size=0)
