"""Fine detail from neighbors: the weights of one attention also select their finer maps, cut into the same cells.

    cell_p   = sum_{n,r} softmax(logit)_{p,(n,r)} W_v unshuffle(norm(fine_n))_r                      per head
    fine_out = fine + shuffle(W_out concat_heads cell)                                       W_out without bias

A finer map costs no attention of its own: its cells are more channels of the values. A row without neighbors has all
its weight on the null token, whose value is zero, so its map comes back bit for bit.

Shapes: B batch, N distinct neighbors, C channels, H/W the finer map, s how many times finer, S = (H/s) * (W/s) cells
of the attention, h heads, d width of a head.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class FineTransfer(nn.Module):
    """One finer map.

    Args:
        channels: C; a multiple of 8.
        factor: s.
        heads: h of the attention.
        width: d, channels a head.
        zero_init: start with a zero output projection, so that a trained base stays what it is.
    """

    def __init__(self, channels: int, factor: int, heads: int, width: int, zero_init: bool = True) -> None:
        super().__init__()
        self.factor, self.heads, self.width, self.zero_init = factor, heads, width, zero_init
        self.norm = nn.GroupNorm(8, channels)
        self.to_value = nn.Linear(channels * factor**2, heads * width, bias=False)
        self.to_out = nn.Linear(heads * width, channels * factor**2, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start again."""
        for layer in (self.norm, self.to_value, self.to_out):
            layer.reset_parameters()
        if self.zero_init:
            nn.init.zeros_(self.to_out.weight)

    def values(self, maps: Tensor) -> Tensor:
        """Values (N, S, h, d) of finer `maps` (N, C, H, W) of the neighbors, once an image."""
        cells = F.pixel_unshuffle(self.norm(maps), self.factor).flatten(2).transpose(1, 2)
        values: Tensor = self.to_value(cells).unflatten(2, (self.heads, self.width))
        return values

    def forward(self, sample: Tensor, cells: Tensor) -> Tensor:
        """Add what was selected.

        Args:
            sample: (B, C, H, W) finer map of the target.
            cells: (B, h, S, d) what the attention selected of `values`.

        Returns:
            (B, C, H, W).
        """
        height, width = (side // self.factor for side in sample.shape[-2:])
        merged = self.to_out(cells.transpose(1, 2).flatten(2).to(sample.dtype))
        fine = F.pixel_shuffle(merged.transpose(1, 2).unflatten(2, (height, width)), self.factor)
        result: Tensor = sample + fine.to(sample.dtype)
        return result
