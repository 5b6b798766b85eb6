"""A large image predicted tile by tile, so that its memory is that of a tile.

    v(y, x) = sum_i w_i(y, x) v_i(y, x) / sum_i w_i(y, x)

v_i is the prediction on tile i alone and w_i falls linearly to its edges. Neighboring tiles overlap by a quarter.
(Bar-Tal et al. 2023, MultiDiffusion.)

Shapes: B batch, D/h/w the U-Net's input, t side of a tile in its cells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from rag_diffusion.models.super_resolution import SuperResolution

Predict = Callable[[SuperResolution, Tensor], Tensor]


def tiled(bound: SuperResolution, sample: Tensor, tile_size: int, predict: Predict) -> Tensor:
    """The prediction at z_t.

    Args:
        bound: a stage with its low-resolution images.
        sample: (k B, D, h, w) z_t.
        tile_size: side of a tile in pixels of the large image.
        predict: of the stage bound to a tile, and z_t there, (k B, D, t, t); returns (k B, ., t, t).

    Returns:
        (k B, ., h, w).

    Raises:
        ValueError: the U-Net cannot take tiles of that size.
    """
    side = sample.shape[-1]
    scale = bound.image_size // side
    unit = scale * 2 ** (len(bound.unet.config.block_out_channels) - 1)
    if tile_size < 2 * unit or tile_size % unit:
        raise ValueError(f"tile_size: expected a multiple of {unit} of at least {2 * unit} pixels, got {tile_size}")
    tile = tile_size // scale
    if tile >= side:
        return predict(bound, sample)
    assert bound.shown is not None
    ramp = _ramp(tile).to(sample.device)
    weight = ramp[:, None] * ramp[None]
    total: Tensor | None = None
    weights = torch.zeros(side, side, device=sample.device)
    for top, left in product(_starts(side, tile), repeat=2):
        place = (..., slice(top, top + tile), slice(left, left + tile))
        part = predict(replace(bound, shown=bound.shown[place]), sample[place])
        if total is None:
            total = part.new_zeros(*part.shape[:2], side, side)
        total[place] += weight * part
        weights[place[1:]] += weight
    assert total is not None
    return total / weights


def _starts(side: int, tile: int) -> list[int]:
    step = tile - tile // 4
    return [*range(0, side - tile, step), side - tile]


def _ramp(tile: int) -> Tensor:
    overlap = max(1, tile // 4)
    distance = torch.minimum(torch.arange(1, tile + 1), torch.arange(tile, 0, -1))
    return distance.clamp(max=overlap) / overlap
