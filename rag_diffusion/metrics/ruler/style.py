"""The first style scorer: a small convolutional network on the trunk's shallow maps, taught to see through degradations.

Trained from pixels on two cores it stops at .66 to .76 of validation images; on frozen ImageNet maps it passes .85.

V views of an image (as it is, degraded, repainted), B batch, C/H/W map.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rag_diffusion.metrics.ruler.trunk import MAP_WIDTH
from rag_diffusion.progress import Progress

WIDTHS = (96, 128)
EPOCHS = 24
BATCH = 64
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.05
CLEAN_SHARE = 0.4  # of the images of an epoch; the other views share the rest

Maps = NDArray[np.float16]


class StyleHead(nn.Module):
    """Three convolutions on the trunk's maps (B, 48, 16, 16); mean and spread of the last; one logit a style.

    Args:
        num_styles: classes.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, num_styles: int) -> None:
        super().__init__()
        a, b = WIDTHS
        self.register_buffer("center", torch.zeros(MAP_WIDTH, 1, 1))
        self.register_buffer("scale", torch.ones(MAP_WIDTH, 1, 1))
        self.body = nn.Sequential(*_block(MAP_WIDTH, a, 1), *_block(a, b, 2), *_block(b, b, 1))
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(2 * b, num_styles))

    def forward(self, maps: Tensor) -> Tensor:
        """Logits (B, styles)."""
        seen = self.body((maps - self.center) / self.scale).flatten(2)
        spread = (seen.var(dim=2, unbiased=False) + 1e-5).sqrt()
        logits: Tensor = self.head(torch.cat([seen.mean(dim=2), spread], dim=1))
        return logits


def _block(width_in: int, width: int, stride: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)


def train_style_head(
    views: Sequence[Maps], labels: NDArray[np.int64], num_styles: int, *, seed: int, epochs: int = EPOCHS
) -> StyleHead:
    """Train on mirrored maps of randomly chosen views, with one cosine cycle of the learning rate.

    Args:
        views: V times (n, 48, 16, 16); the first is of the images as they are.
        labels: (n,) style numbers.
        num_styles: classes.
        seed: of weights, order, views, mirroring and dropout.
        epochs: passes over the images.

    Returns:
        The head in evaluation mode.
    """
    targets = torch.from_numpy(labels)
    rng = np.random.default_rng(seed)
    steps = epochs * math.ceil(len(labels) / BATCH)
    with (
        _one_thread(),
        torch.random.fork_rng(devices=[]),
        Progress(total=steps, desc="style scorer", unit="step") as bar,
    ):
        torch.manual_seed(seed)
        head = _standardised(StyleHead(num_styles), views[0]).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
        for _ in range(epochs):
            losses = []
            for rows in torch.randperm(len(labels)).split(BATCH):
                loss = F.cross_entropy(
                    head(_batch(views, rows.numpy(), rng)), targets[rows], label_smoothing=LABEL_SMOOTHING
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
                bar.update(1)
            bar.note(f"loss {np.mean(losses):.3f}")
    return head.eval()


@torch.inference_mode()
def style_logits(head: StyleHead, maps: Maps, batch_size: int = 256) -> NDArray[np.float64]:
    """Logits (n, styles) of maps (n, 48, 16, 16), averaged over the maps and their mirror."""
    parts = [torch.zeros(0, head.head[-1].out_features)]
    for start in range(0, len(maps), batch_size):
        batch = torch.from_numpy(maps[start : start + batch_size]).float()
        parts.append((head(batch) + head(batch.flip(3))) / 2)
    return torch.cat(parts).double().numpy()


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread gives the same sums on every machine, and for so small a network no less speed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _batch(views: Sequence[Maps], rows: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
    share = [1.0] if len(views) == 1 else [CLEAN_SHARE, *[(1 - CLEAN_SHARE) / (len(views) - 1)] * (len(views) - 1)]
    view = rng.choice(len(views), size=len(rows), p=share)
    maps = torch.from_numpy(np.stack([views[v][row] for v, row in zip(view, rows, strict=True)])).float()
    mirror = torch.from_numpy(rng.random(len(rows)) < 0.5)[:, None, None, None]
    return torch.where(mirror, maps.flip(3), maps).contiguous(memory_format=torch.channels_last)


def _standardised(head: StyleHead, maps: Maps) -> StyleHead:
    """Set the head's input center and scale from every eighth image."""
    values = torch.from_numpy(maps[::8]).float()
    head.center.copy_(values.mean(dim=(0, 2, 3))[:, None, None])
    head.scale.copy_(values.std(dim=(0, 2, 3))[:, None, None] + 1e-5)
    return head
