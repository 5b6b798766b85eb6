"""Pixels <-> the U-Net's input: what a VAE is to latent diffusion.

`PatchCodec`, the project's own, is without loss: principal components of small patches. An image is cut into p x p
patches; each patch, D = 3 p^2 numbers, is moved by the mean patch and rotated onto the principal components of patches
(Karhunen-Loeve transform). The rotation is orthonormal, so white noise stays white and distances stay distances; the
components are uncorrelated with standard deviations from several (colour) to a few hundredths (fine detail), which is
what `precondition` needs to know.

Shapes: B batch, H/W image, h = H / p, w = W / p, D = 3 p^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from rag_diffusion.arrays import Pixels


class Codec(Protocol):
    """Images to the U-Net's input and back.

    Attributes:
        std: (D,) deviation of each channel, where it is known: then the network is preconditioned by it.
        lossless: whether an x_0 estimate may go to pixels and back at every step, so that it can be thresholded.
    """

    @property
    def std(self) -> Tensor | None:
        """Known deviations."""
        ...

    @property
    def lossless(self) -> bool:
        """Nothing is lost on the way."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """`images` (B, 3, H, W) in [-1, 1] as (B, D, h, w)."""
        ...

    def decode(self, sample: Tensor) -> Tensor:
        """`sample` (B, D, h, w) as images (B, 3, H, W)."""
        ...

    def to(self, device: torch.device | str) -> Codec:
        """The same on `device`."""
        ...


@dataclass(frozen=True, kw_only=True)
class LatentCodec:
    """A VAE of diffusers; `encode` takes the mode, so that the same neighbor always gives the same features."""

    vae: Any
    std: None = None
    lossless: bool = False

    def encode(self, images: Tensor) -> Tensor:
        """`images` (B, 3, H, W) in [-1, 1] as (B, D, h, w)."""
        mode: Tensor = self.vae.encode(images.to(self.vae.dtype)).latent_dist.mode()
        return (mode - self._shift) * float(self.vae.config.scaling_factor)

    def decode(self, sample: Tensor) -> Tensor:
        """`sample` (B, D, h, w) as images (B, 3, H, W)."""
        images: Tensor = self.vae.decode(
            sample.to(self.vae.dtype) / self.vae.config.scaling_factor + self._shift
        ).sample
        return images

    def to(self, device: torch.device | str) -> LatentCodec:
        """Move the VAE to `device`, in place."""
        self.vae.to(device)
        return self

    @property
    def _shift(self) -> float:
        return getattr(self.vae.config, "shift_factor", None) or 0.0


@dataclass(frozen=True, kw_only=True)
class PixelCodec:
    """The U-Net sees pixels, as those of DeepFloyd IF do."""

    std: None = None
    lossless: bool = True

    def encode(self, images: Tensor) -> Tensor:
        """`images` themselves."""
        return images

    def decode(self, sample: Tensor) -> Tensor:
        """`sample` itself."""
        return sample

    def to(self, device: torch.device | str) -> PixelCodec:
        """The same on any `device`: there is nothing to move."""
        return self


@dataclass(frozen=True, kw_only=True)
class PatchCodec:
    """Basis (D, D) with orthonormal rows, mean (D,) and standard deviation of the components (D,)."""

    patch_size: int
    basis: Tensor
    mean: Tensor
    std: Tensor
    lossless: bool = True

    @classmethod
    def fit(cls, pixels: Pixels, patch_size: int) -> PatchCodec:
        """Principal components, largest first, of the patches, `patch_size` wide, of `pixels` (N, H, W, 3) uint8."""
        size = 3 * patch_size**2
        total, products, count = torch.zeros(size).double(), torch.zeros(size, size).double(), 0
        for start in range(0, len(pixels), 512):
            patches = F.pixel_unshuffle(pixels_to_images(torch.from_numpy(pixels[start : start + 512])), patch_size)
            rows = patches.permute(0, 2, 3, 1).reshape(-1, size).double()
            total, products, count = total + rows.sum(0), products + rows.T @ rows, count + len(rows)
        mean = total / count
        variances, vectors = torch.linalg.eigh(products / count - torch.outer(mean, mean))
        basis = vectors.T.flip(0)
        basis = basis * torch.where(basis.sum(1, keepdim=True) < 0, -1.0, 1.0)  # the sign of a component is free
        std = variances.flip(0).clamp(min=1e-6).sqrt()
        return cls(patch_size=patch_size, basis=basis.float(), mean=mean.float(), std=std.float())

    def encode(self, images: Tensor) -> Tensor:
        """`images` (B, 3, H, W) in [-1, 1] as (B, D, h, w)."""
        basis, mean = self.basis.to(images.device), self.mean.to(images.device)  # wherever hooks have brought the U-Net
        return torch.einsum("ed,bdhw->behw", basis, F.pixel_unshuffle(images, self.patch_size) - mean.view(-1, 1, 1))

    def decode(self, sample: Tensor) -> Tensor:
        """`sample` (B, D, h, w) as images (B, 3, H, W)."""
        basis, mean = self.basis.to(sample.device), self.mean.to(sample.device)
        patches = torch.einsum("ed,behw->bdhw", basis, sample) + mean.view(-1, 1, 1)
        return F.pixel_shuffle(patches, self.patch_size)

    def to(self, device: torch.device | str) -> PatchCodec:
        """The same on `device`."""
        parts = {name: getattr(self, name).to(device) for name in ("basis", "mean", "std")}
        return PatchCodec(patch_size=self.patch_size, **parts)

    def state(self) -> dict[str, Tensor]:
        """Tensors by name, for safetensors."""
        return {"basis": self.basis, "mean": self.mean, "std": self.std}


def pixels_to_images(pixels: Tensor) -> Tensor:
    """`pixels` (B, H, W, 3) uint8 as (B, 3, H, W) float32 in [-1, 1]."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def images_to_pixels(images: Tensor) -> Tensor:
    """`images` (B, 3, H, W) as (B, H, W, 3) uint8; values outside of [-1, 1] are clipped."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
