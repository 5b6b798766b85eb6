"""Thresholding of the x_0 estimate of pixel models (Saharia et al. 2022, section 2.3).

    static    x_0 <- clip(x_0, -1, 1)
    dynamic   s = max(1, the 99.5th percentile of |x_0| of each image);   x_0 <- clip(x_0, -s, s) / s

Guidance pushes x_0 out of the range of pixels; what the network then sees it has never seen in training.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from rag_diffusion.models.generator import Generator
from rag_diffusion.models.parametrisation import from_clean, to_clean

Thresholding = Literal["static", "dynamic", "none"]
_PERCENTILE = 0.995


def threshold(generator: Generator, kind: Thresholding, sample: Tensor, timestep: Tensor, prediction: Tensor) -> Tensor:
    """The prediction at x_t, `sample`, that means a thresholded x_0; unchanged for latents.

    Args:
        generator: whose prediction it is.
        kind: `static`, `dynamic` or `none`.
        sample: (B, D, h, w) x_t.
        timestep: ().
        prediction: (B, D, h, w) eps, v or x_0.

    Raises:
        ValueError: there is no such kind.
    """
    check_thresholding(kind)
    if kind == "none" or not generator.codec.lossless:
        return prediction
    alpha, codec = generator.alphas_cumprod(timestep), generator.codec
    pixels = codec.decode(to_clean(generator.prediction_type, sample, prediction, alpha))
    clean = codec.encode(pixels.clamp(-1, 1) if kind == "static" else dynamic(pixels))
    return from_clean(generator.prediction_type, sample, clean, alpha)


def check_thresholding(kind: str) -> None:
    """Refuse a `kind` that is no thresholding.

    Raises:
        ValueError: it is none.
    """
    if kind not in ("static", "dynamic", "none"):
        raise ValueError(f"thresholding: expected static, dynamic or none, got {kind!r}")


def dynamic(pixels: Tensor) -> Tensor:
    """`pixels` (B, 3, H, W) in any range -> in [-1, 1]."""
    limit = pixels.abs().flatten(1).quantile(_PERCENTILE, dim=1).clamp(min=1).view(-1, 1, 1, 1)
    return pixels.clamp(-limit, limit) / limit
