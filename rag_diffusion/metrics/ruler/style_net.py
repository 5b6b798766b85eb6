"""The first style scorer: a small convolutional network at 64 px, blind to palette and sharpness by its training."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rag_diffusion.metrics.ruler.augment import degrade
from rag_diffusion.progress import Progress

SIZE = 64  # pixels
WIDTHS = (32, 64, 128)
EPOCHS = 24
BATCH = 32
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.02
LABEL_SMOOTHING = 0.05


class StyleNet(nn.Module):
    """Convolutions from 64 to 8 px; mean and spread of the last maps; one logit a style."""

    def __init__(self, num_styles: int) -> None:
        super().__init__()
        a, b, c = WIDTHS
        self.body = nn.Sequential(
            *_block(3, a, 2, 5), *_block(a, b, 2), *_block(b, b, 1), *_block(b, c, 2), *_block(c, c, 1)
        )
        self.head = nn.Linear(2 * c, num_styles)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, styles) of images (B, 3, 64, 64) in [0, 1]."""
        maps = self.body(images * 2 - 1).flatten(2)
        spread = (maps.var(dim=2, unbiased=False) + 1e-5).sqrt()
        return self.head(torch.cat([maps.mean(dim=2), spread], dim=1))


def _block(width_in: int, width: int, stride: int, kernel: int = 3) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(width_in, width, kernel, stride, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)


def to_floats(pixels: NDArray[np.uint8]) -> Tensor:
    """(n, H, W, 3) uint8 -> (n, 3, 64, 64) float in [0, 1], resized with antialiasing where it must be."""
    images = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255
    if images.shape[-2:] != (SIZE, SIZE):
        images = F.interpolate(images, size=(SIZE, SIZE), mode="bicubic", antialias=True).clamp(0, 1)
    return images


def train_style_net(
    pixels: NDArray[np.uint8], labels: NDArray[np.int64], num_styles: int, *, seed: int, epochs: int = EPOCHS
) -> StyleNet:
    """Train on degraded images with one cosine cycle of the learning rate.

    Args:
        pixels: (n, H, W, 3) train images.
        labels: (n,) style numbers.
        num_styles: classes.
        seed: of weights, order and degradations.
        epochs: passes over the images.

    Returns:
        The network in evaluation mode.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = StyleNet(num_styles).to(memory_format=torch.channels_last)
    images, targets = to_floats(pixels), torch.from_numpy(labels)
    steps = epochs * math.ceil(len(images) / BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.15)
    net.train()
    with Progress(total=steps, desc="style net", unit="step") as bar:
        for _ in range(epochs):
            for rows in torch.randperm(len(images), generator=generator).split(BATCH):
                batch = degrade(images[rows], generator).contiguous(memory_format=torch.channels_last)
                logits = net(batch)
                loss = F.cross_entropy(logits, targets[rows], label_smoothing=LABEL_SMOOTHING)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update(1)
            bar.note(f"loss {loss.item():.3f}")
    return net.eval()


@torch.inference_mode()
def style_logits(net: StyleNet, pixels: NDArray[np.uint8], batch_size: int = 256) -> NDArray[np.float32]:
    """Logits (n, styles) of images (n, H, W, 3), averaged over the image and its mirror."""
    parts = []
    for start in range(0, len(pixels), batch_size):
        images = to_floats(pixels[start : start + batch_size])
        parts.append((net(images) + net(images.flip(3))) / 2)
    return torch.cat(parts).numpy() if parts else np.zeros((0, net.head.out_features), dtype=np.float32)
