"""Thresholding of the x_0 estimate of pixel models (Saharia et al. 2022, section 2.3).

    static    x_0 <- clip(x_0, -1, 1)
    dynamic   s = max(1, the 99.5th percentile of |x_0| of each image);   x_0 <- clip(x_0, -s, s) / s
    palette   as static, and from abar_t > .6 on x_0 <- the nearest picture of few flat colours, see `palette`
    local     x_0 <- clip(x_0, m - (M - m) / 2, M + (M - m) / 2)    of super-resolution: m and M are the least and the
              largest of the 3 x 3 low-resolution pixels around, by channel; a flat area stays flat

Guidance pushes x_0 out of the range of pixels; what the network then sees it has never seen in training. `palette` is
for drawings in flat colours: photographs have more, and so have shaded drawings, which `StylePalettes` tells apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from rag_diffusion.arrays import Pixels
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.parametrisation import from_clean, to_clean
from rag_diffusion.sampling.palette import few_colours

Thresholding = Literal["static", "dynamic", "palette", "none"]
StageThresholding = Literal["local", "static", "dynamic", "none"]
_PERCENTILE = 0.995
_FLAT_FROM = 0.6  # abar_t: before, x_0 has no colours of its own yet
_WIDENED = 0.5  # of the local range, on either side: a line thinner than a low-resolution pixel is beyond it


def threshold(
    generator: Generator,
    kind: Thresholding | StageThresholding,
    sample: Tensor,
    timestep: Tensor,
    prediction: Tensor,
    bounds: tuple[Tensor, Tensor] | None = None,
    palettes: Sequence[Pixels | None] | None = None,
) -> Tensor:
    """The prediction at x_t, `sample`, that means a thresholded x_0; unchanged for latents.

    Args:
        generator: whose prediction it is.
        kind: `static`, `dynamic`, `palette`, `local` or `none`.
        sample: (B, D, h, w) x_t.
        timestep: ().
        prediction: (B, D, h, w) eps, v or x_0.
        bounds: for `local`, of `local_bounds`.
        palettes: for `palette`, as `few_colours` takes them.

    Raises:
        ValueError: there is no such kind, or `local` without bounds.
    """
    check_thresholding(kind, local=bounds is not None)
    if kind == "none" or not generator.codec.lossless:
        return prediction
    alpha, codec = generator.alphas_cumprod(timestep), generator.codec
    pixels = codec.decode(to_clean(generator.prediction_type, sample, prediction, alpha))
    if kind == "dynamic":
        pixels = dynamic(pixels)
    else:
        pixels = pixels.clamp(*bounds) if bounds is not None and kind == "local" else pixels.clamp(-1, 1)
    if kind == "palette" and float(alpha) > _FLAT_FROM:
        pixels = few_colours(pixels, palettes=palettes)
    clean = codec.encode(pixels)
    return from_clean(generator.prediction_type, sample, clean, alpha)


def threshold_each(
    generator: Generator,
    kinds: Sequence[Thresholding],
    palettes: Sequence[Pixels | None],
    sample: Tensor,
    timestep: Tensor,
    prediction: Tensor,
) -> Tensor:
    """`threshold` with a kind and a palette of its own for each image.

    Args:
        generator: whose prediction it is.
        kinds: B.
        palettes: B.
        sample: (B, D, h, w) x_t.
        timestep: ().
        prediction: (B, D, h, w) eps, v or x_0.
    """
    if len(set(kinds)) == 1:
        return threshold(generator, kinds[0], sample, timestep, prediction, palettes=palettes)
    found = prediction.clone()
    for kind in sorted(set(kinds)):
        own = [row for row, one in enumerate(kinds) if one == kind]
        rows = torch.tensor(own, device=sample.device)
        given = [palettes[row] for row in own]
        found[rows] = threshold(generator, kind, sample[rows], timestep, prediction[rows], palettes=given)
    return found


def check_thresholding(kind: str, *, local: bool = False) -> None:
    """Refuse what is no thresholding.

    Args:
        kind: the name.
        local: whether there are low-resolution images, which `local` needs.

    Raises:
        ValueError: it is none.
    """
    kinds = get_args(StageThresholding if local else Thresholding)
    if kind not in kinds:
        raise ValueError(f"thresholding: expected {', '.join(kinds[:-1])} or {kinds[-1]}, got {kind!r}")


def local_bounds(low: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Between which values the pixels of a super-resolved image lie.

    Args:
        low: (B, 3, l, l) low-resolution images in [-1, 1].
        size: side H of the large ones.

    Returns:
        The least and the largest values, (B, 3, H, H) each.
    """
    around = F.pad(low, (1, 1, 1, 1), mode="replicate")
    least, largest = -F.max_pool2d(-around, 3, 1), F.max_pool2d(around, 3, 1)
    margin = _WIDENED * (largest - least)
    limits = ((least - margin).clamp(min=-1), (largest + margin).clamp(max=1))
    return F.interpolate(limits[0], size, mode="nearest"), F.interpolate(limits[1], size, mode="nearest")


def dynamic(pixels: Tensor) -> Tensor:
    """`pixels` (B, 3, H, W) in any range -> in [-1, 1]."""
    limit = pixels.abs().flatten(1).quantile(_PERCENTILE, dim=1).clamp(min=1).view(-1, 1, 1, 1)
    return pixels.clamp(-limit, limit) / limit
