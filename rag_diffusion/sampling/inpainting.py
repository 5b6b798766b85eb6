"""In-painting: a mask says which part of a picture is drawn anew, with neighbors as in any drawing.

After every step the rest becomes what it was, noised to the level of the next one, as diffusers' in-painting pipelines
do with networks that are made for no mask:

    x_{t-1} <- m x_{t-1} + (1 - m) (a x_0 + b eps)             x_0 of the picture, eps the noise that it began with

so at the end it is the picture itself: exactly so for codecs without loss, as the VAE gives it back otherwise.

Shapes: B images, D/h/w the U-Net's input, H/W image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rag_diffusion.arrays import Pixels

_HALF = 128  # levels from which on a pixel is drawn anew

MaskImage = Image.Image | np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The part of B pictures that stays.

    Attributes:
        anew: (B, 1, h, w) 1 where it is drawn, 0 where it stays.
        clean: (B, D, h, w) x_0 of the pictures.
        noise: (B, D, h, w) that they are noised with.
    """

    anew: Tensor
    clean: Tensor
    noise: Tensor

    def restore(self, sample: Tensor, scheduler: Any, following: Tensor | None) -> Tensor:
        """The sample with what stays put back.

        Args:
            sample: (B, D, h, w) after a step, in the scheduler's coordinates.
            scheduler: of diffusers.
            following: () the timestep of the next step; None after the last one.
        """
        known = self.clean
        if following is not None:
            known = scheduler.add_noise(self.clean, self.noise, following.reshape(1).repeat(len(self.noise)))
        return (1 - self.anew) * known.to(sample.dtype) + self.anew * sample


def as_masks(given: MaskImage | Sequence[MaskImage], count: int, size: tuple[int, int]) -> Pixels:
    """Masks of pictures.

    Args:
        given: one for all prompts, or one for each of them: white (255, 1.0, True) where it is drawn anew; a PIL image,
            or an (H, W) array of uint8, bool, or floats from 0 to 1. Scaled to the drawing, and cut at a half.
        count: number of prompts.
        size: (H, W) of the drawing.

    Returns:
        (count, H, W) uint8, 0 or 255.

    Raises:
        ValueError: they are none, of another number, or nothing is to be drawn.
    """
    masks: list[Any] = list(given) if isinstance(given, list | tuple) else [given]
    if len(masks) not in (1, count):
        raise ValueError(f"mask_image: expected one mask, or one for each of {count} prompts, got {len(masks)}")
    cells = [_cells(mask, size) for mask in masks]
    if not all(one.any() for one in cells):
        raise ValueError("mask_image: expected a mask with white where the picture is drawn anew, got a black one")
    return np.stack(cells * (count // len(cells)))


def _cells(mask: Any, size: tuple[int, int]) -> Pixels:
    if isinstance(mask, np.ndarray) and mask.ndim == 2 and 0 not in mask.shape:
        levels = np.asarray(mask, dtype=np.float32) * (1 if mask.dtype == np.uint8 else 255)
        if not (np.isfinite(levels).all() and levels.min() >= 0 and levels.max() <= 255):
            raise ValueError("mask_image: expected uint8, bool, or floats from 0 to 1, got numbers outside of that")
        mask = Image.fromarray(np.rint(levels).astype(np.uint8))
    if not isinstance(mask, Image.Image):
        got = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise ValueError(f"mask_image: expected a PIL image or an array (H, W), got {got}")
    height, width = size
    gray = mask.convert("L").resize((width, height), Image.Resampling.BICUBIC)
    return np.where(np.asarray(gray) >= _HALF, 255, 0).astype(np.uint8)


def cells_anew(masks: Pixels, shape: tuple[int, int], device: torch.device) -> Tensor:
    """Masks on the cells of the U-Net's input.

    Args:
        masks: (B, H, W) uint8 of `as_masks`.
        shape: (h, w).
        device: where to.

    Returns:
        (B, 1, h, w) float32, 0 or 1, by the nearest pixel as in diffusers.
    """
    levels = torch.from_numpy(np.ascontiguousarray(masks))[:, None].float() / 255
    return F.interpolate(levels, shape, mode="nearest").to(device)
