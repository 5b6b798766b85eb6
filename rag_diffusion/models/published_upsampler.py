"""DeepFloyd IF stage II, as diffusers saves it, as a super-resolution stage.

It diffuses the pixels themselves, x, beside u_s = a_s up(low) + b_s n, by a noising schedule of its own, and is told s
by an embedding of timesteps. Upsampling is bilinear with aligned corners, as in diffusers' `IFSuperResolutionPipeline`.

Shapes: B batch, l side of the low-resolution image, H of the high one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, DiffusionPipeline
from torch import Tensor

from rag_diffusion.errors import ModelError
from rag_diffusion.models.codec import PixelCodec
from rag_diffusion.models.neighbor_kv import NeighborKV
from rag_diffusion.models.published import PublishedText
from rag_diffusion.models.super_resolution import SuperResolution
from rag_diffusion.models.text_encoder import TextFeatures
from rag_diffusion.models.unet import RetrievalUNet

FAMILY = "IFSuperResolutionPipeline"
_FACTOR = 4  # between the sides of stage I and stage II
_LEFT_OUT = ("safety_checker", "feature_extractor", "watermarker")


@dataclass(kw_only=True)
class PublishedUpsampler(SuperResolution):
    """DeepFloyd IF stage II; see `SuperResolution`."""

    @property
    def augmentation_size(self) -> int:
        """Side of the noise that augments: this one noises the upsampled image."""
        return self.image_size

    def noised_up(self, low: Tensor, levels: Tensor, noise: Tensor, size: int) -> Tensor:
        """u_s (B, 3, size, size).

        Args:
            low: (B, 3, l, l) in [-1, 1].
            levels: (B,) s, integers.
            noise: (B, 3, size, size) standard normal.
            size: side of u_s in pixels.
        """
        upsampled = F.interpolate(low, (size, size), mode="bilinear", align_corners=True)
        noised: Tensor = self.published.image_noising_scheduler.add_noise(upsampled, noise, levels)
        return noised

    def beside_upsampled(self, upsampled: Tensor, levels: Tensor) -> PublishedUpsampler:
        """The same weights, bound to u_s, `upsampled` (B, 3, H, W), of `levels` s, (B,)."""
        return replace(self, shown=upsampled, levels=levels.to(upsampled.device))

    def predict(
        self,
        sample: Tensor,
        timestep: Tensor,
        text: TextFeatures,
        features: Mapping[str, NeighborKV] | None,
        *,
        and_without: bool = False,
        and_with: Mapping[str, NeighborKV] | None = None,
    ) -> Tensor:
        """The prediction at x_t, mean and learned variance; see `SuperResolution.predict`.

        Args:
            sample: (k B, 3, H, H) x_t.
            timestep: () or (k B,) integers.
            text: of k B captions.
            features: keys and values of the neighbors; None is k = 0.
            and_without: also without the neighbors, out of the same encoder pass.
            and_with: also with these neighbors, out of the same encoder pass.

        Returns:
            (k B, 6, H, H) float32.
        """
        assert self.shown is not None
        assert self.levels is not None
        copies = len(sample) // len(self.shown)
        output: Tensor = self.unet(
            torch.cat([sample, torch.cat([self.shown] * copies)], dim=1).to(self.unet.dtype),
            timestep,
            text.states.to(self.unet.dtype),
            class_labels=torch.cat([self.levels] * copies),
            encoder_attention_mask=text.mask,
            neighbors=features,
            and_without=and_without,
            and_with=and_with,
        ).sample
        return output.float()


def load_published_upsampler(
    name: str, device: torch.device | str = "cpu", low_size: int | None = None, **options: Any
) -> PublishedUpsampler:
    """Read DeepFloyd IF stage II.

    Args:
        name: folder or hub name.
        device: where it is to live.
        low_size: side of the images that it is given; None: a quarter of its own.
        **options: of `RetrievalUNet.from_pretrained`, e.g. `torch_dtype`.

    Raises:
        ModelError: it cannot be had, is of another family, or has no text encoder.
    """
    try:
        index = DiffusionPipeline.load_config(name)
        family = index["_class_name"]
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{name}: expected a super-resolution stage's folder with upsampler.json, or a diffusers pipeline by "
            f"folder or hub name, got: {str(error).strip().splitlines()[0]}; correct the name or train one"
        ) from None
    if family != FAMILY:
        raise ModelError(f"{name}: expected a pipeline of {FAMILY}, got {family}; it is no super-resolution stage")
    try:
        unet = RetrievalUNet.from_pretrained(name, subfolder="unet", use_safetensors=True, **options)
        dropped = {part: None for part in _LEFT_OUT if part in index}
        shared = {key: value for key, value in options.items() if key in ("variant", "torch_dtype")}
        pipeline = getattr(diffusers, family).from_pretrained(
            name, unet=unet, **dropped, requires_safety_checker=False, trust_remote_code=False, use_safetensors=True,
            **shared,
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{name}: expected a complete {family}, got: {str(error).strip().splitlines()[0]}; download it again"
        ) from None
    if pipeline.text_encoder is None:
        raise ModelError(
            f"{name}: expected the text encoder that its network reads, of width {unet.config.encoder_hid_dim}, got "
            "none; put the folders text_encoder and tokenizer of stage I beside it"
        )
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module) and part is not unet:
            part.eval().requires_grad_(False)
    pipeline.to(device)
    size = int(unet.config.sample_size)
    return PublishedUpsampler(
        unet=unet.eval(),
        codec=PixelCodec(),
        text_encoder=PublishedText(pipeline, (size, size)),
        schedule=DDPMScheduler.from_config(pipeline.scheduler.config),
        image_size=size,
        low_size=low_size or size // _FACTOR,
        max_noise_level=int(pipeline.image_noising_scheduler.config.num_train_timesteps) - 1,
        published=pipeline,
        fingerprint="" if Path(name).is_dir() else name,
    )
