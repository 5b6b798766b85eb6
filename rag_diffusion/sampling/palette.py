"""Drawings of few flat colours: x_0 projected onto the pictures of k colours with smooth outlines.

    c_1 .. c_k    k-means of the pixels of x_0, begun with the upper left pixel and then, one by one, with the pixel
                  that is farthest from all before
    c'_j           what in the palette of the style asked for looks most like c_j, where there is one; else c_j; where
                   nothing in it is like c_j, by lightness
    x_0 <- mean over s x s of  c'_{argmin_j |up_s(x_0) - c_j|},     s = 4

A diffusion network of little training paints where an icon is flat: its x_0 is a mean over many drawings, and has
gradients that none of them has. The nearest colour is looked up at s times the size, so that outlines are anti-aliased
as those of rendered drawings are. A set of icons keeps to a few dozen colours, by which it is known: `StylePalettes`.

Colours are found in 8 bits: pictures that differ by the rounding of a batch have the same ones, but for a pixel in
thousands.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rag_diffusion.arrays import Pixels
from rag_diffusion.colours import nearest_colours

COLOURS = 8
_TIMES = 4
_FAR = 60.0  # in Lab; colours of drawings are within 42 of those of the style that they are drawn in
_ITERATIONS = 8


def few_colours(pixels: Tensor, count: int = COLOURS, palettes: Sequence[Pixels | None] | None = None) -> Tensor:
    """The nearest picture of few colours of each of B.

    Args:
        pixels: (B, 3, H, W) in [-1, 1].
        count: k, the most colours of a picture; one that has fewer keeps them.
        palettes: of each picture, (P, 3) sRGB: all that its colours are taken from; None leaves them as they are.

    Returns:
        (B, 3, H, W), in the type of `pixels`.

    Raises:
        ValueError: `count` is less than 1.

    Examples:
        >>> import torch
        >>> from rag_diffusion.sampling.palette import few_colours
        >>> halves = torch.cat([torch.full((1, 3, 8, 4), -0.5), torch.full((1, 3, 8, 4), 0.5)], dim=3)
        >>> painted = halves + 0.05 * torch.linspace(-1, 1, 8)
        >>> few_colours(painted, 2)[0, 0, 0, [0, 1, 6, 7]].mul(100).round().tolist()
        [-53.0, -53.0, 53.0, 53.0]
    """
    if count < 1:
        raise ValueError(f"count: expected 1 colour or more, got {count}")
    colours = palette(pixels, count)
    large = F.interpolate(pixels.float(), scale_factor=_TIMES, mode="bicubic")
    height, width = large.shape[2:]
    nearest = torch.cdist(large.flatten(2).transpose(1, 2), colours).argmin(dim=2)
    if palettes is not None:
        colours = torch.stack([_of(own, given) for own, given in zip(colours, palettes, strict=True)])
    flat = colours.gather(1, nearest[..., None].expand(-1, -1, 3))
    return F.avg_pool2d(flat.transpose(1, 2).reshape(-1, 3, height, width), _TIMES).to(pixels.dtype)


def palette(pixels: Tensor, count: int) -> Tensor:
    """Colours of each of B pictures, by k-means.

    Args:
        pixels: (B, 3, H, W) in [-1, 1].
        count: k.

    Returns:
        (B, k, 3) float32; a colour comes several times where a picture has fewer.
    """
    points = ((pixels.float() + 1) * 127.5).round().div(127.5).sub(1).flatten(2).transpose(1, 2)
    colours = _apart(points, count)
    for _ in range(_ITERATIONS):
        members = F.one_hot(torch.cdist(points, colours).argmin(dim=2), count).to(points.dtype)
        sizes = members.sum(dim=1)[..., None]
        means = members.transpose(1, 2) @ points / sizes.clamp(min=1)
        colours = torch.where(sizes > 0, means, colours)
    return colours


def _of(colours: Tensor, given: Pixels | None) -> Tensor:
    """Of a palette `given`, (P, 3) sRGB, what looks most like each of `colours` (k, 3) in [-1, 1]."""
    if given is None:
        return colours
    found = nearest_colours(((colours + 1) * 127.5).cpu().numpy(), given, most=_FAR)
    return torch.from_numpy(found).to(colours) / 127.5 - 1


def _apart(points: Tensor, count: int) -> Tensor:
    """The first of (B, N, 3) points, and `count` - 1 that are each the farthest from all before."""
    rows = torch.arange(len(points), device=points.device)
    chosen = [points[:, 0]]
    distances = torch.full(points.shape[:2], torch.inf, device=points.device)
    for _ in range(count - 1):
        distances = torch.minimum(distances, (points - chosen[-1][:, None]).square().sum(dim=2))
        chosen.append(points[rows, distances.argmax(dim=1)])
    return torch.stack(chosen, dim=1)
