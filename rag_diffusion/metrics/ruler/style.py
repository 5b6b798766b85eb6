"""The first style scorer: a small convolutional network on the trunk's maps, taught to see through degradations.

Trained from pixels on two cores it stopped at .66 to .76 of validation images; on frozen ImageNet maps it passes .85.

V views of an image (as it is, degraded, repainted), B batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rag_diffusion.arrays import Doubles, Ints
from rag_diffusion.metrics.ruler.trunk import MAP_WIDTH, SHALLOW, Embedding
from rag_diffusion.progress import Progress

WIDTHS = (96, 128)
STATISTICS_WIDTH = 64
EPOCHS = 24
HEADS = 3
BATCH = 64
LEARNING_RATE = 5e-3
WEIGHT_DECAY = 0.1
DROPOUT = 0.2
LABEL_SMOOTHING = 0.05
CLEAN_SHARE = 0.6  # of the images of an epoch; the other views share the rest


class StyleHead(nn.Module):
    """Three convolutions on the trunk's maps, beside one layer on its shallow statistics; one logit a style.

    Args:
        num_styles: classes.
    """

    def __init__(self, num_styles: int) -> None:
        super().__init__()
        a, b = WIDTHS
        self.num_styles = num_styles
        convolutions = (*_block(MAP_WIDTH, a, 1), *_block(a, b, 2), *_block(b, b, 1))
        self.maps = nn.Sequential(_Standardise(MAP_WIDTH, 1, 1), *convolutions)
        self.statistics = nn.Sequential(
            _Standardise(SHALLOW), nn.Linear(SHALLOW, STATISTICS_WIDTH), nn.BatchNorm1d(STATISTICS_WIDTH), nn.ReLU()
        )
        self.head = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(2 * b + STATISTICS_WIDTH, num_styles))

    def forward(self, maps: Tensor, statistics: Tensor) -> Tensor:
        """Logits (B, styles) from `maps` (B, 48, 16, 16) and shallow layer `statistics` (B, 144)."""
        features = self.maps(maps).flatten(2)
        spread = (features.var(dim=2, unbiased=False) + 1e-5).sqrt()
        logits: Tensor = self.head(torch.cat([features.mean(dim=2), spread, self.statistics(statistics)], dim=1))
        return logits


class StyleEnsemble(nn.Module):
    """Heads that differ in their seed alone; mean of their log-probabilities, steadier than any one of them.

    Args:
        num_styles: classes.
        num_heads: members.
    """

    def __init__(self, num_styles: int, num_heads: int = HEADS) -> None:
        super().__init__()
        self.num_styles = num_styles
        self.members = nn.ModuleList(StyleHead(num_styles) for _ in range(num_heads))

    def forward(self, maps: Tensor, statistics: Tensor) -> Tensor:
        """Log-probabilities (B, styles) from `maps` (B, 48, 16, 16) and shallow layer `statistics` (B, 144)."""
        return torch.stack([head(maps, statistics).log_softmax(dim=1) for head in self.members]).mean(dim=0)


class _Standardise(nn.Module):
    """Subtract a fixed mean and divide by a fixed spread, channel by channel."""

    center: Tensor
    scale: Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(shape))

    def fit(self, values: Tensor) -> None:
        """Take mean and spread over every axis but the second."""
        axes = [axis for axis in range(values.dim()) if axis != 1]
        self.center.copy_(values.mean(dim=axes).reshape(self.center.shape))
        self.scale.copy_(values.std(dim=axes).reshape(self.scale.shape) + 1e-5)

    def forward(self, values: Tensor) -> Tensor:
        return (values - self.center) / self.scale


def _block(width_in: int, width: int, stride: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)


def train_style_ensemble(
    views: Sequence[Embedding], labels: Ints, num_styles: int, *, seed: int, epochs: int = EPOCHS
) -> StyleEnsemble:
    """Train the heads one after the other, with the seeds `seed`, `seed + 1`, ...; see `train_style_head`.

    Args:
        views: V embeddings of the same n images.
        labels: (n,) style numbers.
        num_styles: classes.
        seed: of the first head.
        epochs: passes over the images.

    Returns:
        The ensemble in evaluation mode.
    """
    ensemble = StyleEnsemble(num_styles)
    for number, member in enumerate(ensemble.members):
        head = train_style_head(views, labels, num_styles, seed=seed + number, epochs=epochs)
        member.load_state_dict(head.state_dict())
    return ensemble.eval()


def train_style_head(
    views: Sequence[Embedding], labels: Ints, num_styles: int, *, seed: int, epochs: int = EPOCHS
) -> StyleHead:
    """Train on mirrored maps of randomly chosen views, with one cosine cycle of the learning rate.

    Args:
        views: V embeddings of the same n images; the first is of the images as they are.
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
    progress = Progress(total=steps, desc="style scorer", unit="step")
    with _one_thread(), torch.random.fork_rng(devices=[]), progress as bar:
        torch.manual_seed(seed)
        head = _standardised(StyleHead(num_styles), views[0]).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
        for _ in range(epochs):
            losses = []
            for rows in torch.randperm(len(labels)).split(BATCH):
                logits = head(*_batch(views, rows.numpy(), rng))
                loss = F.cross_entropy(logits, targets[rows], label_smoothing=LABEL_SMOOTHING)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
                bar.update(1)
            bar.note(f"loss {np.mean(losses):.3f}")
    return head.eval()


@torch.inference_mode()
def style_logits(head: StyleHead | StyleEnsemble, seen: Embedding, batch_size: int = 256) -> Doubles:
    """Logits of embedded images, averaged over the maps and their mirror.

    Args:
        head: a head, or the ensemble.
        seen: n images.
        batch_size: images at a time.

    Returns:
        (n, styles).
    """
    parts = [torch.zeros(0, head.num_styles)]
    for start in range(0, len(seen.maps), batch_size):
        maps = torch.from_numpy(seen.maps[start : start + batch_size]).float()
        statistics = torch.from_numpy(seen.layers[start : start + batch_size, :SHALLOW])
        parts.append((head(maps, statistics) + head(maps.flip(3), statistics)) / 2)
    return torch.cat(parts).double().numpy()


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread adds up in the same order everywhere, and for so small a network is no slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _batch(views: Sequence[Embedding], rows: Ints, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    others = len(views) - 1
    share = [CLEAN_SHARE, *[(1 - CLEAN_SHARE) / others] * others] if others else [1.0]
    view = rng.choice(len(views), size=len(rows), p=share)
    chosen = list(zip((views[number] for number in view), rows, strict=True))
    maps = torch.from_numpy(np.stack([seen.maps[row] for seen, row in chosen])).float()
    statistics = torch.from_numpy(np.stack([seen.layers[row, :SHALLOW] for seen, row in chosen]))
    mirror = torch.from_numpy(rng.random(len(rows)) < 0.5)[:, None, None, None]
    return torch.where(mirror, maps.flip(3), maps).contiguous(memory_format=torch.channels_last), statistics


def _standardised(head: StyleHead, seen: Embedding) -> StyleHead:
    """Set the head's input centers and scales."""
    for part, values in ((head.maps[0], seen.maps[::8]), (head.statistics[0], seen.layers[:, :SHALLOW])):
        assert isinstance(part, _Standardise)
        part.fit(torch.from_numpy(values).float())
    return head
