"""Colours of drawings: the palette of a style, whether it is shaded, and pictures in the colours of a palette.

    L*a*b*     CIE Lab of sRGB under D65, where distances are roughly what an eye sees
    palette    k-means in Lab over pixels of flat areas, each cluster by its most frequent exact colour, and white
    shaded     more than .07 of the inked pixels have a gentle gradient around them

P colours of a palette, H/W image.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from rag_diffusion.arrays import Doubles, Ints, Pixels

MAX_SAMPLES = 20_000  # pixels a palette is made from
ITERATIONS = 25
SHADED = 0.07  # noto has .096, the other emoji sets .050 at most
_GENTLE = (1, 15)  # range of 3 x 3 pixels, in 255: more is an outline
_INKED = 250  # what has a channel below is no paper
_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = _TO_XYZ.sum(axis=1)


def to_lab(colors: Pixels | Doubles) -> Doubles:
    """sRGB `colors` (..., 3) in 0..255 as CIE Lab under D65, (..., 3)."""
    share = np.asarray(colors, dtype=np.float64) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    ratio = linear @ _TO_XYZ.T / _WHITE
    root = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def style_palette(images: Pixels, num_colors: int, *, seed: int) -> Pixels:
    """The colours of a style (P, 3): k-means in Lab over pixels of its images.

    Pixels on flat areas only, since edges are mixtures; each cluster is shown by its most frequent exact colour.

    Args:
        images: (n, H, W, 3) images of the style.
        num_colors: P; fewer come where the images have fewer.
        seed: of the sample and the start.

    Returns:
        (P, 3) sRGB, white among them.
    """
    rng = np.random.default_rng(seed)
    flat = images[:, :-1, :-1][
        (images[:, :-1, :-1] == images[:, 1:, :-1]).all(-1) & (images[:, :-1, :-1] == images[:, :-1, 1:]).all(-1)
    ]
    pixels = flat if len(flat) else images.reshape(-1, 3)
    inked = pixels[(pixels < _INKED).any(axis=1)]
    pixels = inked if len(inked) else pixels
    sample = pixels[rng.permutation(len(pixels))[:MAX_SAMPLES]]
    label, _ = _k_means(to_lab(sample), num_colors, rng)
    modes = [_mode(sample[label == number]) for number in np.unique(label)]
    return np.unique(np.array([*modes, [255, 255, 255]], dtype=np.uint8), axis=0)


def is_shaded(images: Pixels) -> bool:
    """Whether drawings `images` (n, H, W, 3) are shaded, as against drawn in flat areas of one colour each."""
    size = (1, 3, 3, 1)
    highest = ndimage.maximum_filter(images, size, mode="nearest")
    ranges = (highest - ndimage.minimum_filter(images, size, mode="nearest")).max(axis=-1)
    gentle = (ranges > _GENTLE[0]) & (ranges < _GENTLE[1])
    inked = (images < _INKED).any(axis=-1).sum(axis=(1, 2))
    return bool((gentle.sum(axis=(1, 2)) / np.maximum(inked, 1)).mean() > SHADED)


def nearest_colours(colors: Pixels | Doubles, palette: Pixels, *, most: float = np.inf) -> Pixels:
    """What in a palette looks most like each of some colours.

    Args:
        colors: (n, 3) in 0..255.
        palette: (P, 3).
        most: a colour that is farther than that from all of the palette, in Lab, becomes the one of its lightness: red
            is as far from white as from green, and a red drawing in greens is not to vanish.

    Returns:
        (n, 3).
    """
    apart = (to_lab(colors)[:, None] - to_lab(palette)[None]) ** 2
    distance = apart.sum(axis=-1)
    distance = np.where(distance.min(axis=1, keepdims=True) > most**2, apart[..., 0], distance)
    nearest: Pixels = palette[distance.argmin(axis=1)]
    return nearest


def snap(image: Pixels, palette: Pixels) -> Pixels:
    """Every pixel of `image` (H, W, 3) in the nearest colour of `palette` (P, 3)."""
    colors, number = np.unique(image.reshape(-1, 3), axis=0, return_inverse=True)
    snapped: Pixels = nearest_colours(colors, palette)[number.reshape(-1)].reshape(image.shape)
    return snapped


def _k_means(points: Doubles, k: int, rng: np.random.Generator) -> tuple[Ints, Doubles]:
    distinct = np.unique(points, axis=0)
    centers = distinct[rng.permutation(len(distinct))[:k]]
    for _ in range(ITERATIONS):
        label = _nearest(points, centers)
        sums = np.stack([np.bincount(label, points[:, axis], len(centers)) for axis in range(3)], axis=1)
        counts = np.bincount(label, minlength=len(centers))[:, None]
        centers = np.where(counts > 0, sums / np.maximum(counts, 1), centers)
    return _nearest(points, centers), centers


def _nearest(points: Doubles, centers: Doubles) -> Ints:
    distance = (centers**2).sum(axis=1) - 2 * points @ centers.T
    nearest: Ints = distance.argmin(axis=1)
    return nearest


def _mode(colors: Pixels) -> Pixels:
    distinct, count = np.unique(colors, axis=0, return_counts=True)
    best: Pixels = distinct[count.argmax()]
    return best
