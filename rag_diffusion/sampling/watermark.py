"""An invisible watermark: 32 bits in the low frequencies of a picture's luma, read without the picture as it was.

Each bit is a random sum of some 14 cosines of 3 to 24 half periods a side, moved to the nearest point of one of two
lattices (spread-transform dither modulation). The cosines belong to the whole picture, so that scaling keeps them.
Cutting, turning and strong compression of small pictures do not; nor does it stand up to who knows how it is made.

Source: B. Chen and G. Wornell, "Quantization index modulation", IEEE Trans. Information Theory 47 (2001), section V-B.

Shapes: H/W picture, b bits, n cosines of a bit.
"""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
from scipy.fft import dctn, idctn

from rag_diffusion.arrays import Doubles, Ints, Mask, Pixels
from rag_diffusion.errors import ConfigError

NUM_BITS = 32
SURE = 28  # matching bits, from which on a picture carries a text's mark: one in 77,000 others does
SMALLEST = 32  # pixels of a side
_LOW, _HIGH = 3, 24  # half periods a side
_STEP = 60.0  # of the lattice, in levels of a coefficient of a 64 px picture
_ROUNDS = 10  # of moving, for what colours that end at 0 and 255 take back
_LUMA = np.array([0.299, 0.587, 0.114])


def bits_of(text: str) -> Mask:
    """(b,) the mark of a `text`: the first bits of its SHA-256."""
    digest = hashlib.sha256(text.encode()).digest()[: NUM_BITS // 8]
    return np.unpackbits(np.frombuffer(digest, np.uint8)).astype(bool)


def embed(pixels: Pixels, text: str) -> Pixels:
    """A picture with the mark of a text.

    Args:
        pixels: (H, W, 3) uint8, 32 or more on each side.
        text: any.

    Returns:
        (H, W, 3) uint8, some 44 dB from the picture.

    Raises:
        ConfigError: the picture is too small.

    Example:
        >>> import numpy as np
        >>> from rag_diffusion.sampling.watermark import embed, matching_bits
        >>> marked = embed(np.full((64, 64, 3), 200, np.uint8), "my studio")
        >>> matching_bits(marked, "my studio")
        32
    """
    _check_size(pixels)
    offset = np.where(bits_of(text), 0.5, 0.0)
    target = (np.round(_projected(pixels) / _STEP - offset) + offset) * _STEP
    cells, weights = _patterns()
    marked, scale = pixels.astype(np.float64), _scale(pixels)
    for _ in range(_ROUNDS):
        change = np.zeros(pixels.shape[:2])
        change[cells[..., 0], cells[..., 1]] = (target - _projected(marked))[:, None] * weights / scale
        marked = np.clip(marked + idctn(change, norm="ortho")[..., None], 0, 255)
    return np.round(marked).astype(np.uint8)


def read_bits(pixels: Pixels) -> Mask:
    """(b,) the bits in a picture, `pixels` (H, W, 3) uint8; chance ones where it has no mark.

    Raises:
        ConfigError: the picture is too small to have one.
    """
    _check_size(pixels)
    steps = _projected(pixels) / _STEP
    return np.asarray(np.abs(steps - np.round(steps)) > 0.25)


def matching_bits(pixels: Pixels, text: str) -> int:
    """How many of the bits in a picture are those of a text's mark; from `SURE` on it is no chance.

    Args:
        pixels: (H, W, 3) uint8.
        text: that may have been embedded.
    """
    return int((read_bits(pixels) == bits_of(text)).sum())


@cache
def _patterns() -> tuple[Ints, Doubles]:
    """Which cosines (b, n, 2) each bit is of, and their weights (b, n), whose squares sum to 1."""
    sides = np.arange(_HIGH + 1)
    radius = np.hypot(sides[:, None], sides[None])
    cells = np.argwhere((radius >= _LOW) & (radius <= _HIGH))
    draws, each = np.random.default_rng(7), len(cells) // NUM_BITS
    chosen = cells[draws.permutation(len(cells))[: each * NUM_BITS]].reshape(NUM_BITS, each, 2)
    return chosen, draws.choice([-1.0, 1.0], (NUM_BITS, each)) / np.sqrt(each)


def _projected(pixels: Pixels | Doubles) -> Doubles:
    """(b,) the sum of cosines of each bit."""
    cells, weights = _patterns()
    spectrum = dctn(pixels.astype(np.float64) @ _LUMA, norm="ortho") * _scale(pixels)
    return np.asarray((spectrum[cells[..., 0], cells[..., 1]] * weights).sum(axis=1))


def _scale(pixels: Pixels | Doubles) -> float:
    """What makes coefficients of a picture those of the same one at 64 px."""
    return float(64 / np.sqrt(pixels.shape[0] * pixels.shape[1]))


def _check_size(pixels: Pixels) -> None:
    if min(pixels.shape[:2]) < SMALLEST:
        got = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise ConfigError(f"watermark: expected a picture of {SMALLEST} pixels a side or more, got {got}")
