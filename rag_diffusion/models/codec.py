"""Pixels <-> the U-Net's input, without loss: pixel-unshuffle in place of a VAE."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def images_to_input(images: Tensor, patch_size: int) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> (B, 3 p^2, H / p, W / p)."""
    return F.pixel_unshuffle(images, patch_size)


def input_to_images(sample: Tensor, patch_size: int) -> Tensor:
    """(B, 3 p^2, H / p, W / p) -> (B, 3, H, W)."""
    return F.pixel_shuffle(sample, patch_size)


def pixels_to_images(pixels: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1]."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def images_to_pixels(images: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, H, W, 3) uint8; values outside of [-1, 1] are clipped."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
