"""Degradations under which a drawing keeps its style: neither palette nor sharpness may decide.

B batch, H/W image. Images are float (B, 3, H, W) in [0, 1] on white; every draw comes from the given generator.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rag_diffusion.arrays import Pixels

MAX_SHIFT = 3  # pixels
MAX_BLUR = 1.0  # pixels
MAX_NOISE = 0.05
SMALL_TURN = 0.15  # radians of hue
KERNEL = 7  # pixels
LUMA = (0.299, 0.587, 0.114)


def degrade(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip, shift, recolour, blur and add noise, each image by its own draw.

    Args:
        images: (B, 3, H, W) in [0, 1].
        generator: source of all randomness.

    Returns:
        (B, 3, H, W) in [0, 1].
    """
    images = recolor(move(images, generator), generator)
    images = blur(images, MAX_BLUR * _chance(images, 0.5, generator) * _uniform(images, 0.0, 1.0, generator))
    sigma = MAX_NOISE * _chance(images, 0.5, generator) * _uniform(images, 0.0, 1.0, generator)
    noise = torch.randn(images.shape, generator=generator) * sigma[:, None, None, None]
    return (images + noise).clamp(0, 1)


def move(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of `images` (B, 3, H, W) and shift all by whole pixels, drawn by `generator`, filling with white."""
    mirror = _chance(images, 0.5, generator).bool()[:, None, None, None]
    images = torch.where(mirror, images.flip(3), images)
    height, width = images.shape[-2:]
    padded = F.pad(images, (MAX_SHIFT,) * 4, value=1.0)
    down, right = torch.randint(0, 2 * MAX_SHIFT + 1, (2, len(images)), generator=generator)
    rows = (down[:, None] + torch.arange(height))[:, None, :, None].expand(-1, 3, -1, padded.shape[3])
    columns = (right[:, None] + torch.arange(width))[:, None, None, :].expand(-1, 3, height, -1)
    return padded.gather(2, rows).gather(3, columns)


def recolor(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn the hue (some by any angle), change saturation and density, make some gray; white stays white.

    Args:
        images: (B, 3, H, W) in [0, 1].
        generator: source of all randomness.

    Returns:
        (B, 3, H, W) in [0, 1].
    """
    anywhere = _chance(images, 0.25, generator)
    angle = anywhere * _uniform(images, -math.pi, math.pi, generator)
    angle = angle + (1 - anywhere) * _uniform(images, -SMALL_TURN, SMALL_TURN, generator)
    saturation = _uniform(images, 0.8, 1.2, generator) * (1 - _chance(images, 0.15, generator))
    ink = torch.einsum("bij,bjhw->bihw", color_matrix(angle, saturation), 1 - images)
    return (1 - ink * _uniform(images, 0.9, 1.1, generator)[:, None, None, None]).clamp(0, 1)


def color_matrix(angle: Tensor, saturation: Tensor) -> Tensor:
    """Rotation of the hue about the gray axis by `angle` (B,), after `saturation` (B,): (B, 3, 3) matrices on RGB."""
    gray = torch.tensor(LUMA).expand(3, 3)
    axis = torch.full((3,), 3.0**-0.5)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) * 3.0**-0.5
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    turn = cosine * torch.eye(3) + sine * cross + (1 - cosine) * torch.outer(axis, axis)
    scale = saturation[:, None, None]
    matrices: Tensor = turn @ (scale * torch.eye(3) + (1 - scale) * gray)
    return matrices


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of `images` (B, 3, H, W), each by its own `sigma` (B,) in pixels; 0 leaves an image as it is."""
    offsets = torch.arange(KERNEL) - KERNEL // 2
    kernel = torch.exp(-(offsets**2) / (2 * sigma.clamp_min(1e-3)[:, None] ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)[:, None]
    half = KERNEL // 2
    flat = F.pad(images, (half,) * 4, mode="replicate").flatten(0, 1)[None]
    flat = F.conv2d(flat, kernel[:, :, :, None], groups=len(kernel))
    flat = F.conv2d(flat, kernel[:, :, None, :], groups=len(kernel))
    blurred: Tensor = flat[0].unflatten(0, (len(images), 3))
    return blurred


def _uniform(images: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(len(images), generator=generator)


def _chance(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(len(images), generator=generator) < probability).float()


def to_floats(pixels: Pixels) -> Tensor:
    """`pixels` (n, H, W, 3) uint8 as (n, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255


def to_pixels(images: Tensor) -> Pixels:
    """`images` (n, 3, H, W) in [0, 1] as (n, H, W, 3) uint8, rounded."""
    pixels: Pixels = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    return pixels
