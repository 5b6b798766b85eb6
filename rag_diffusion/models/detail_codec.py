"""Details beside an upsampled image as the input of a super-resolution stage's U-Net, and back.

    z = B (x - u_s) / g(s)

u_s is the low-resolution image, noised to level s and upsampled; B cuts patches and rotates them onto the principal
components of the missing details, and g(s) makes their variance one.

Shapes: B batch, l side of the low-resolution image, H/W of the high one, p patch, D = 3 p^2, h = H / p.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def upsample(low: Tensor, size: int) -> Tensor:
    """Bicubic upsampling of `low` (B, 3, l, l) to (B, 3, `size`, `size`); values may leave [-1, 1]."""
    return F.interpolate(low, (size, size), mode="bicubic", align_corners=False)


@dataclass(frozen=True, kw_only=True)
class DetailCodec:
    """Details beside an upsampled image <-> the U-Net's input.

    Attributes:
        patch_size: p.
        basis: (D, D) orthonormal rows: principal components of patches of x - up(low), largest first.
        std: (D,) their standard deviations.
        noise_std: (D,) of upsampled noise of deviation one.
        picture_mean, picture_std: (D,) of upsampled images in the same basis.
        beside: (B, 3, H, W) u_s of a batch; None where it is not known yet.
        sigma: (B,) deviation of the noise in it.
        lossless: True: `encode` and `decode` undo each other.
    """

    patch_size: int
    basis: Tensor
    std_clean: Tensor
    noise_std: Tensor
    picture_mean: Tensor
    picture_std: Tensor
    beside: Tensor | None = None
    sigma: Tensor | None = None
    lossless: bool = True

    @classmethod
    def fit(cls, pairs: Iterable[tuple[Tensor, Tensor]], patch_size: int) -> DetailCodec:
        """Fit to images.

        Args:
            pairs: batches of (low (B, 3, l, l), images (B, 3, H, H)), both in [-1, 1].
            patch_size: p.
        """
        size = 3 * patch_size**2
        products, squares, noises = (torch.zeros(size, size).double() for _ in range(3))
        mean, count, draws = torch.zeros(size).double(), 0, torch.Generator().manual_seed(0)
        for low, images in pairs:
            upsampled = upsample(low, images.shape[-1])
            noise = upsample(torch.randn(low.shape, generator=draws), images.shape[-1])
            details, pictures, noises_up = (_rows(part, patch_size) for part in (images - upsampled, upsampled, noise))
            products += details.T @ details
            squares += pictures.T @ pictures
            noises += noises_up.T @ noises_up
            mean, count = mean + pictures.sum(0), count + len(pictures)
        variances, vectors = torch.linalg.eigh(products / count)
        basis = vectors.T.flip(0)
        basis = basis * torch.where(basis.sum(1, keepdim=True) < 0, -1.0, 1.0)
        picture_mean = basis @ mean / count
        picture_variances = torch.diagonal(basis @ squares @ basis.T) / count - picture_mean**2
        return cls(
            patch_size=patch_size,
            basis=basis.float(),
            std_clean=variances.flip(0).clamp(min=1e-8).sqrt().float(),
            noise_std=(torch.diagonal(basis @ noises @ basis.T) / count).clamp(min=1e-8).sqrt().float(),
            picture_mean=picture_mean.float(),
            picture_std=picture_variances.clamp(min=1e-8).sqrt().float(),
        )

    def given(self, beside: Tensor, sigma: Tensor) -> DetailCodec:
        """The codec of a batch with u_s, `beside` (B, 3, H, W), noised with deviations `sigma` (B,)."""
        return replace(self.to(beside.device), beside=beside, sigma=sigma.to(beside.device))

    @property
    def std(self) -> Tensor:
        """(B, D) deviations of z by channel."""
        return self._deviations / self._gain[:, None]

    def encode(self, images: Tensor) -> Tensor:
        """`images` (B, 3, H, W) in [-1, 1] -> z, (B, D, h, w)."""
        return self._rotated(images - self._beside) / self._gain.view(-1, 1, 1, 1)

    def decode(self, sample: Tensor) -> Tensor:
        """z, `sample` (B, D, h, w) -> (B, 3, H, W)."""
        patches = torch.einsum("ed,behw->bdhw", self.basis, sample * self._gain.view(-1, 1, 1, 1))
        return self._beside + F.pixel_shuffle(patches, self.patch_size)

    def shown(self) -> Tensor:
        """u_s as the U-Net sees it, (B, D, h, w) with mean 0 and variance 1 by channel."""
        deviation = (self.picture_std**2 + self._sigma[:, None] ** 2 * self.noise_std**2).sqrt()
        centred = self._rotated(self._beside) - self.picture_mean.view(1, -1, 1, 1)
        return centred / deviation[..., None, None]

    def to(self, device: torch.device | str) -> DetailCodec:
        """The same on another `device`."""
        moved: dict[str, Any] = {n: value.to(device) for n, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)

    def state(self) -> dict[str, Tensor]:
        """Tensors by name, for safetensors."""
        names = ("basis", "std_clean", "noise_std", "picture_mean", "picture_std")
        return {name: getattr(self, name) for name in names}

    @property
    def _beside(self) -> Tensor:
        if self.beside is None:
            raise ValueError("a super-resolution stage: expected a low-resolution image, got none; call `beside` first")
        return self.beside

    @property
    def _sigma(self) -> Tensor:
        assert self.sigma is not None
        return self.sigma

    @property
    def _deviations(self) -> Tensor:
        return (self.std_clean**2 + self._sigma[:, None] ** 2 * self.noise_std**2).sqrt()

    @property
    def _gain(self) -> Tensor:
        """(B,) g(s)."""
        return self._deviations.square().mean(1).sqrt()

    def _rotated(self, images: Tensor) -> Tensor:
        return torch.einsum("ed,bdhw->behw", self.basis, F.pixel_unshuffle(images, self.patch_size))


def _rows(images: Tensor, patch_size: int) -> Tensor:
    """(n, D) float64 patches."""
    patches = F.pixel_unshuffle(images, patch_size)
    return patches.permute(0, 2, 3, 1).flatten(0, 2).double()
