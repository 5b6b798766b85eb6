"""Augmentation of targets and neighbors: each with draws of its own, or all of a step as one.

Each on its own (`Moves`), so that a model cannot learn to copy pixel by pixel. All as one (`Together`), so that it
meets more entities than the corpus has, and can learn their colours and their direction from the neighbors alone.

A mirrored or moved neighbor may happen to show what its target shows, though the pairs differ (hands that point left
and right). Such a neighbor is taken away from that target: a model that sees its target among its neighbors copies.

Shapes: B targets, K neighbors of each, N distinct neighbors, H/W image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

SAME = 0.005  # mean squared difference of two images in [0, 1] at 32 px, as in corpus.duplicates
_COMPARED = 32


@dataclass(frozen=True, kw_only=True)
class Moves:
    """Of n images: whether each is mirrored, (n,), and by how many pixels it moves down and right, (n, 2)."""

    flip: NDArray[np.bool_]
    shift: NDArray[np.int64]

    @classmethod
    def draw(cls, rng: np.random.Generator, count: int, flip: float, shift: int) -> Moves:
        """Draw for `count` images.

        Args:
            rng: of the draws.
            count: n.
            flip: probability of a mirror image, left to right.
            shift: the most pixels it moves in each direction.
        """
        return cls(flip=rng.random(count) < flip, shift=rng.integers(-shift, shift + 1, (count, 2)))

    def __getitem__(self, rows: slice | list[int]) -> Moves:
        return Moves(flip=self.flip[rows], shift=self.shift[rows])

    def apply(self, images: Tensor) -> Tensor:
        """(n, 3, H, W) -> (n, 3, H, W); what moves in at an edge repeats it."""
        moved = [self._one(image, number) for number, image in enumerate(images)]
        return torch.stack(moved) if moved else images

    def _one(self, image: Tensor, number: int) -> Tensor:
        image = image.flip(-1) if self.flip[number] else image
        down, right = (int(value) for value in self.shift[number])
        if not (down or right):
            return image
        height, width = image.shape[-2:]
        most = max(abs(down), abs(right))
        padded = F.pad(image[None], (most, most, most, most), mode="replicate")[0]
        return padded[:, most - down : most - down + height, most - right : most - right + width]


@dataclass(frozen=True, kw_only=True)
class Together:
    """What happens to every image of a step alike: mirrored or not, all hues turned by an angle in radians."""

    flip: bool
    hue: float

    @classmethod
    def draw(cls, rng: np.random.Generator, probability: float) -> Together | None:
        """None with one minus the probability; else mirrored in half of the draws, any angle.

        Args:
            rng: of the draws.
            probability: that anything happens.
        """
        happens, flip, hue = rng.random() < probability, rng.random() < 0.5, rng.uniform(-np.pi, np.pi)
        return cls(flip=bool(flip), hue=float(hue)) if happens else None

    def apply(self, images: Tensor) -> Tensor:
        """(n, 3, H, W) in [-1, 1] -> the same; grey stays as it is, what leaves the range is clipped.

        r' = R r, R the rotation about the grey axis (1, 1, 1).
        """
        grey = torch.full((3, 3), 1 / 3)
        cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / 3**0.5
        turn = grey + float(np.cos(self.hue)) * (torch.eye(3) - grey) + float(np.sin(self.hue)) * cross
        turned = torch.einsum("dc,nchw->ndhw", turn, images).clamp(-1, 1)
        return turned.flip(-1) if self.flip else turned


def keep_apart(targets: Tensor, neighbors: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Weights (B, K) with zero where a neighbor shows its target.

    Args:
        targets: (B, 3, H, W) in [-1, 1].
        neighbors: (N, 3, H, W).
        rows: (B, K) which of the N each target sees.
        weights: (B, K) before.
    """
    if not rows.numel() or not len(neighbors):
        return weights
    seen, shown = _thumbnails(targets)[:, None], _thumbnails(neighbors)[rows]
    return weights * ((seen - shown).square().mean(-1) >= SAME)


def _thumbnails(images: Tensor) -> Tensor:
    """(n, 3, H, W) in [-1, 1] -> (n, 3 * 32 * 32) in [0, 1]."""
    return F.interpolate((images + 1) / 2, (_COMPARED, _COMPARED), mode="area").flatten(1)
