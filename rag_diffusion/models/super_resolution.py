"""A super-resolution stage: draws an image of a higher resolution beside one of a lower resolution [0080].

    u_s = up(low + s n)             the low-resolution image, noised to level s, upsampled
    z   = B (x - u_s) / g(s)        the image in the coordinates of the diffusion: what is missing in u_s
    z_t = a z + b eps               noised; the U-Net sees it beside u_s, and is told t, s and the text

Noising the low-resolution image is the noise conditioning augmentation. B cuts patches and rotates them onto the
principal components of the missing details, g(s) makes their variance one, and the deviation of each component at each
s is known, so the network is preconditioned as the base is (`precondition`). A network that answers nothing gives the
upsampled image back, denoised as well as a linear filter of patches can.

s is counted in timesteps of the variance schedule, as DeepFloyd IF's `noise_level` is: the deviation of the noise is
sqrt(1 - abar_s) / sqrt(abar_s). (Ho et al. 2022, Cascaded Diffusion Models; Saharia et al. 2022, Imagen.)

Published ones (DeepFloyd IF stage II) diffuse the pixels themselves: z = x, and u_s = a_s up(low) + b_s n.

Shapes: B batch, l side of the low-resolution image, H of the high one, p patch, D = 3 p^2, h = H / p.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rag_diffusion.config import UpsampleModelConfig
from rag_diffusion.errors import ConfigError, ModelError
from rag_diffusion.models.detail_codec import DetailCodec, upsample
from rag_diffusion.models.generator import Generator, noise_schedule
from rag_diffusion.models.neighbor_kv import NeighborKV
from rag_diffusion.models.own import CODEC, write_weights
from rag_diffusion.models.precondition import Precondition
from rag_diffusion.models.text_encoder import TextEncoder, TextFeatures
from rag_diffusion.models.unet import RetrievalUNet

UPSAMPLER = "upsampler.json"


@dataclass(kw_only=True)
class SuperResolution(Generator):
    """A generator of the high-resolution image; bound to low-resolution images by `beside`.

    Attributes:
        low_size: side l of the images that it is given.
        max_noise_level: the highest s that it was trained with.
        num_neighbors: the most neighbors that it was trained with; 0: it looks at none.
        shown: (B, ., h, w) u_s as the U-Net sees it; None before `beside`.
        levels: (B,) s.
    """

    low_size: int
    max_noise_level: int
    num_neighbors: int = 0
    shown: Tensor | None = None
    levels: Tensor | None = None

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """(D, h, w) of z; the U-Net's input has as many channels again."""
        config = self.unet.config
        return config.in_channels // 2, config.sample_size, config.sample_size

    @property
    def augmentation_size(self) -> int:
        """Side of the noise that augments: the low-resolution image is noised before it is upsampled."""
        return self.low_size

    def beside(self, low: Tensor, levels: Tensor, noise: Tensor) -> SuperResolution:
        """The same weights, bound to a batch.

        Args:
            low: (B, 3, l, l) in [-1, 1]; in training a crop of it.
            levels: (B,) s, integers.
            noise: (B, 3, ., .) standard normal, with sides of `augmentation_size`; in training like `low`.
        """
        size = low.shape[-1] * self.image_size // self.low_size
        return self.beside_upsampled(self.noised_up(low, levels, noise, size), levels)

    def noised_up(self, low: Tensor, levels: Tensor, noise: Tensor, size: int) -> Tensor:
        """u_s.

        Args:
            low: (B, 3, l, l) in [-1, 1].
            levels: (B,) s, integers.
            noise: like `low`, standard normal.
            size: side of u_s in pixels.

        Returns:
            (B, 3, size, size).
        """
        sigma = self.sigma(levels).to(low.device).view(-1, 1, 1, 1)
        return upsample(low + sigma * noise, size)

    def beside_upsampled(self, upsampled: Tensor, levels: Tensor) -> SuperResolution:
        """The same weights, bound to u_s, `upsampled` (B, 3, H, W), of `levels` s, (B,)."""
        assert isinstance(self.codec, DetailCodec)
        codec = self.codec.given(upsampled, self.sigma(levels))
        return replace(self, codec=codec, shown=codec.shown(), levels=levels.to(upsampled.device))

    def sigma(self, levels: Tensor) -> Tensor:
        """(B,) deviation of the noise of `levels` s, (B,) integers."""
        table: Tensor = self.schedule.alphas_cumprod
        signal = table[levels.long().to(table.device)]
        deviation: Tensor = ((1 - signal) / signal).sqrt() * (levels > 0).to(signal.device)
        return deviation

    def neighbor_maps(self, images: Tensor, captions: TextFeatures) -> dict[str, Tensor]:
        """f(c_n, 0) of N neighbors, seen as the picture is: upsampled from the low resolution, and with their details.

        Args:
            images: (N, 3, H, W) in [-1, 1], of any size that the factor divides; in training crops.
            captions: of the N neighbors.

        Returns:
            Attended map -> (N, C', H', W').
        """
        images = images.to(self.device)
        size, never = images.shape[-1], torch.zeros(len(images), dtype=torch.long, device=self.device)
        low = F.interpolate(images, size * self.low_size // self.image_size, mode="area")
        bound = self.beside_upsampled(upsample(low, size), never)
        assert bound.shown is not None
        assert bound.codec.std is not None
        clean = bound.codec.encode(images) * Precondition.at(self.alphas_cumprod(never), bound.codec.std).scale_in
        seen = torch.cat([clean, bound.shown], dim=1).to(self.unet.dtype)
        return self.unet.encode_neighbors(seen, captions.states, captions.mask, class_labels=never)

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
        """The prediction at z_t; see `Generator.predict`. Copies of the batch, one after the other, are one batch.

        Args:
            sample: (k B, D, h, w) z_t.
            timestep: () or (k B,) integers.
            text: of k B captions.
            features: keys and values of the neighbors; None is k = 0.
            and_without: also without the neighbors, out of the same encoder pass.
            and_with: also with these neighbors, out of the same encoder pass.
        """
        assert self.shown is not None
        assert self.levels is not None
        copies = len(sample) // len(self.shown)
        shown, levels = torch.cat([self.shown] * copies), torch.cat([self.levels] * copies)
        assert self.codec.std is not None
        std = torch.cat([self.codec.std] * copies)
        known = Precondition.at(self.alphas_cumprod(timestep), std)
        output: Tensor = self.unet(
            torch.cat([sample * known.scale_in, shown], dim=1).to(self.unet.dtype),
            timestep,
            text.states,
            class_labels=levels,
            encoder_attention_mask=text.mask,
            neighbors=features,
            and_without=and_without,
            and_with=and_with,
        ).sample
        parts = output.chunk(len(output) // len(sample))
        return torch.cat([known.velocity(sample, part) for part in parts])


def build_upsampler(
    config: UpsampleModelConfig, codec: DetailCodec, device: torch.device | str, num_neighbors: int = 0
) -> SuperResolution:
    """A new stage with random weights, which gives the upsampled image back.

    Args:
        config: architecture and sizes.
        codec: fitted to the images it is to draw.
        device: where it is to live.
        num_neighbors: the most that it will be trained with.

    Raises:
        ConfigError: the sizes do not fit each other.
    """
    factor, rest = divmod(config.image_size, config.low_size)
    if rest or factor < 2:
        raise ConfigError(
            f"upsample.model.image_size: expected a multiple of low_size {config.low_size}, got {config.image_size}"
        )
    if config.image_size % config.patch_size:
        raise ConfigError(
            f"upsample.model.patch_size: expected a divisor of image_size {config.image_size}, got {config.patch_size}"
        )
    text_encoder = TextEncoder(config.text_encoder, config.max_text_tokens, device)
    widths, channels = config.block_out_channels, 3 * config.patch_size**2
    try:
        unet = RetrievalUNet(
            sample_size=config.image_size // config.patch_size,
            in_channels=2 * channels,
            out_channels=channels,
            block_out_channels=tuple(widths),
            layers_per_block=tuple(config.layers_per_block),
            norm_num_groups=8,
            time_embedding_dim=256,
            down_block_types=("DownBlock2D",) * len(widths),
            mid_block_type="UNetMidBlock2D",
            up_block_types=("UpBlock2D",) * len(widths),
            class_embed_type="timestep",
            encoder_hid_dim=text_encoder.width,
            cross_attention_dim=256,
            addition_embed_type="text",
            addition_embed_type_num_heads=8,
            neighbor_skips=tuple(config.neighbor_skips),
        )
    except ValueError as error:
        raise ConfigError(f"upsample.model: expected sizes that fit each other, got: {error}") from None
    for values in unet.conv_out.parameters():  # F = 0: start as the linear filter
        torch.nn.init.zeros_(values)
    if num_neighbors:
        unet.randomize_output()  # from scratch there is no base to preserve
    return SuperResolution(
        unet=unet.to(device),
        codec=codec.to(device),
        text_encoder=text_encoder,
        schedule=noise_schedule(),
        image_size=config.image_size,
        low_size=config.low_size,
        max_noise_level=config.max_noise_level,
        num_neighbors=num_neighbors,
    )


def save_upsampler(stage: SuperResolution, folder: Path) -> None:
    """Write a `stage`, weights in float16, into an existing `folder`."""
    assert isinstance(stage.codec, DetailCodec)
    names = ("low_size", "max_noise_level", "num_neighbors")
    facts = {name: getattr(stage, name) for name in names} | {"patch_size": stage.codec.patch_size}
    write_weights(stage, folder, UPSAMPLER, stage.codec.state(), **facts)


def load_upsampler(folder: Path, device: torch.device | str = "cpu") -> SuperResolution:
    """Read a folder that `save_upsampler` wrote, in float32.

    Args:
        folder: that one.
        device: where it is to live.

    Raises:
        ModelError: the folder is incomplete, or its weights have another shape.
    """
    try:
        spec = json.loads((folder / UPSAMPLER).read_text())
        unet = RetrievalUNet.from_pretrained(folder / "unet", torch_dtype=torch.float32)
        codec = DetailCodec(patch_size=spec["patch_size"], **load_file(folder / CODEC))
        name, tokens = spec["text_encoder"], spec["max_text_tokens"]
        sizes: dict[str, Any] = {key: int(spec[key]) for key in ("image_size", "low_size", "max_noise_level")}
        sizes["num_neighbors"] = int(spec.get("num_neighbors", 0))
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"{folder}: expected a super-resolution stage that fits unet/config.json, got: "
            f"{str(error).strip().splitlines()[0]}; restore the folder or train it again"
        ) from None
    return SuperResolution(
        unet=unet.to(device).eval(),
        codec=codec.to(device),
        text_encoder=TextEncoder(name, tokens, device),
        schedule=noise_schedule(),
        **sizes,
    )
