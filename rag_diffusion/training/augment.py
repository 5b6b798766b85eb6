"""Augmentation of targets and neighbors: each with draws of its own, or all of a step as one.

Each on its own (`Placement`): mirrored, scaled, turned and moved, so that a model cannot learn to copy pixel by pixel
and meets neighbors as they are outside of an icon set, where nothing lies on the target. All as one
(`SharedAugmentation`), so that it meets more entities than the corpus has, and can learn their colours and their
direction from the neighbors alone.

    x_out = s R F x_in + t      s scale, R turn by an angle, F mirror, t shift; x from the centre of the image

A neighbor that was placed anew may happen to show what its target shows, though the pairs differ (hands that point left
and right). Such a neighbor is taken away from that target: a model that sees its target among its neighbors copies.

Shapes: B targets, K neighbors of each, N distinct neighbors, H/W image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rag_diffusion.arrays import Doubles, Floats, Mask

if TYPE_CHECKING:
    from rag_diffusion.config import TrainConfig

SAME = 0.005  # mean squared difference of two images in [0, 1] at 32 px, as in corpus.duplicates
_COMPARED = 32
_SHRINKS = 1.3  # pixels of the image to one of its smaller self, above which a sample would miss lines
_OVERSAMPLE = 2  # so such an image has more of them, in each direction


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where n images stand.

    Attributes:
        matrix: (n, 2, 3), x_in = matrix (x_out, 1), in halves of the image's side.
        moved: (n,) which images are placed anew.
    """

    matrix: Floats
    moved: Mask

    @classmethod
    def from_terms(
        cls,
        *,
        scale: Doubles,
        shift: Doubles,
        flip: Mask,
        angle: Doubles,
        moved: Mask | None = None,
    ) -> Placement:
        """From the equation's terms.

        Args:
            scale: (n,) s.
            shift: (n, 2) t, right and down, in halves of the side: 1 moves the centre to the edge.
            flip: (n,) whether an image is mirrored, left to right.
            angle: (n,) radians, clockwise.
            moved: (n,) images that are placed anew; the others stay bit for bit. None is all.

        Returns:
            Where the n images stand.
        """
        cos, sin = np.cos(angle), np.sin(angle)
        mirror = np.where(flip, -1.0, 1.0)
        inverse = np.stack([np.stack([cos * mirror, sin * mirror], -1), np.stack([-sin, cos], -1)], 1)
        inverse /= scale[:, None, None]
        offset = -np.einsum("nij,nj->ni", inverse, shift)
        matrix = np.concatenate([inverse, offset[..., None]], -1).astype(np.float32)
        return cls(matrix=matrix, moved=np.ones(len(scale), dtype=bool) if moved is None else moved)

    @classmethod
    def draw(cls, rng: np.random.Generator, count: int, config: TrainConfig, side: int, *, targets: bool) -> Placement:
        """Draw for `count` images as `augment_*` says; a target keeps its size within a quarter, and does not turn.

        Args:
            rng: of the draws.
            count: n.
            config: probabilities and ranges.
            side: of the images in pixels.
            targets: whether these are targets.

        Returns:
            Where the n images stand.
        """
        low, high = config.augment_scale
        if targets:
            low, high = max(low, 0.8), min(high, 1.25)
        turn = 0.0 if targets else np.deg2rad(config.augment_turn)
        moved = rng.random(count) < (config.augment_targets if targets else config.augment_neighbors)
        return cls.from_terms(
            scale=np.exp(rng.uniform(np.log(low), np.log(high), count)),
            shift=rng.uniform(-1.0, 1.0, (count, 2)) * 2 * config.augment_shift / side,
            flip=rng.random(count) < config.augment_flip,
            angle=rng.uniform(-1.0, 1.0, count) * turn,
            moved=moved,
        )

    def __getitem__(self, rows: slice | list[int]) -> Placement:
        return Placement(matrix=self.matrix[rows], moved=self.moved[rows])

    def apply(self, images: Tensor) -> Tensor:
        """Place `images` (n, 3, H, W) in [-1, 1] on white; those that are not `moved` stay bit for bit."""
        if not self.moved.any():
            return images
        placed = images.clone()
        shrinks = np.sqrt(np.abs(np.linalg.det(self.matrix[:, :, :2]))) > _SHRINKS
        for chosen, samples in ((self.moved & ~shrinks, 1), (self.moved & shrinks, _OVERSAMPLE)):
            rows = torch.from_numpy(np.flatnonzero(chosen)).to(images.device)
            if len(rows):
                matrix = torch.from_numpy(self.matrix[chosen]).to(images.device)
                placed[rows] = _resample(images[rows], matrix, samples)
        return placed


def _resample(images: Tensor, matrix: Tensor, samples: int) -> Tensor:
    """Place (n, 3, H, W) on white, by the mean of so many samples a pixel and direction."""
    count, channels, height, width = images.shape
    grid = F.affine_grid(matrix, [count, channels, samples * height, samples * width], align_corners=False)
    placed = F.grid_sample(images - 1, grid, padding_mode="zeros", align_corners=False)  # zero is white here
    return F.avg_pool2d(placed, samples) + 1


def beside(images: Tensor, others: Tensor, chosen: Mask) -> Tensor:
    """Put another thing on the canvas of chosen images: each at half size, the image on the left, the other on the
    right.

    Args:
        images: (n, 3, H, W) in [-1, 1].
        others: (n, 3, H, W) what is put beside each.
        chosen: (n,) which ones.

    Returns:
        (n, 3, H, W) in [-1, 1].
    """
    if not chosen.any():
        return images
    rows = torch.from_numpy(np.flatnonzero(chosen)).to(images.device)
    count = len(rows)
    half = {"scale": np.full(count, 0.5), "flip": np.zeros(count, dtype=bool), "angle": np.zeros(count)}
    parts = [
        Placement.from_terms(shift=np.tile([[side, 0.0]], (count, 1)), **half).apply(source[rows])
        for side, source in ((-0.5, images), (0.5, others))
    ]
    both = images.clone()
    both[rows] = torch.minimum(*parts)
    return both


@dataclass(frozen=True, kw_only=True)
class SharedAugmentation:
    """What happens to every image of a step alike: mirrored or not, all hues turned by an angle in radians."""

    flip: bool
    hue: float

    @classmethod
    def draw(cls, rng: np.random.Generator, probability: float) -> SharedAugmentation | None:
        """None with one minus the probability; else mirrored in half of the draws, any angle.

        Args:
            rng: of the draws.
            probability: that anything happens.
        """
        happens, flip, hue = rng.random() < probability, rng.random() < 0.5, rng.uniform(-np.pi, np.pi)
        return cls(flip=bool(flip), hue=float(hue)) if happens else None

    def apply(self, images: Tensor) -> Tensor:
        """Turn and mirror `images`, (n, 3, H, W) in [-1, 1]; grey stays as it is, what leaves the range is clipped.

        r' = R r, R the rotation about the grey axis (1, 1, 1).
        """
        grey = torch.full((3, 3), 1 / 3)
        cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / 3**0.5
        turn = grey + float(np.cos(self.hue)) * (torch.eye(3) - grey) + float(np.sin(self.hue)) * cross
        turned = torch.einsum("dc,nchw->ndhw", turn.to(images.device), images).clamp(-1, 1)
        return turned.flip(-1) if self.flip else turned


def mask_lookalikes(targets: Tensor, neighbors: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Weights (B, K) with zero where a neighbor shows its target.

    Args:
        targets: (B, 3, H, W) in [-1, 1].
        neighbors: (N, 3, H, W).
        rows: (B, K) which of the N each target sees.
        weights: (B, K) before.

    Returns:
        (B, K) weights after.
    """
    if not rows.numel() or not len(neighbors):
        return weights
    small, small_neighbors = _thumbnails(targets)[:, None], _thumbnails(neighbors)[rows]
    return weights * ((small - small_neighbors).square().mean(-1) >= SAME)


def _thumbnails(images: Tensor) -> Tensor:
    """(n, 3, H, W) in [-1, 1] -> (n, 3 * 32 * 32) in [0, 1]."""
    return F.interpolate((images + 1) / 2, (_COMPARED, _COMPARED), mode="area").flatten(1)
