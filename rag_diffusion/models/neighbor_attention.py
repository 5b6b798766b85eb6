"""Attention from a target's feature map to those of its neighbors.

Equation, per head with width d, for a query at cell p and a key of neighbor n at cell r (patent [0069-70], claim 8):

    logit(p, n, r) = q_p . k_{n,r} / sqrt(d) - |p - r|^2 / (2 sigma^2) + log w_n     sigma learned, one a head, in cells
    logit(p, null) = learned, one a head; its value is 0
    out_p = W_out concat_heads sum_{n,r} softmax(logit)_{n,r} v_{n,r}         W_out without bias

The Gaussian term makes a query look at its own place in each neighbor first. A weight w_n of 2 counts a neighbor twice,
0 hides it. The null token lets a query attend to nothing; a row without neighbors attends to it alone, so its output
is exactly zero. The Gaussian is an inner product,

    -|p - r|^2 / (2 sigma^2) = (p / sigma^2) . r  -  |r|^2 / (2 sigma^2)  -  |p|^2 / (2 sigma^2),

so it rides along as four more channels of q and k: no (queries x keys) bias is ever built, and neither is a mask. The
same channels of v say to which neighbor a key belongs, so how much each neighbor is looked at is a by-product:

    mass_p(n) = mean_heads sum_r softmax(logit)_{n,r}                               sums to 1 with the null token

Shapes: B batch, K neighbors, C channels, H/W map, M = K * H * W keys, h heads, d head width, e extra channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MASKED = -1e4  # logit of a key that must not be seen
_BIAS = 2  # the extra channel that is added to a key's logit
_SIGMAS = (0.3, 2.5)  # cells; first and last head at the start


@dataclass(frozen=True)
class NeighborKV:
    """Keys and values of the neighbors at one attended map, (B, h, M + 1, e + d) each."""

    keys: Tensor
    values: Tensor

    def select(self, rows: Tensor) -> NeighborKV:
        """Some rows of the batch, in any order and number."""
        return NeighborKV(self.keys[rows], self.values[rows])

    def twice(self, hide: bool) -> NeighborKV:
        """The batch twice, (2B, ...); with `hide` the second half sees the null token alone."""
        second = self.keys
        if hide:
            second = self.keys.clone()
            second[:, :, :-1, _BIAS] += MASKED
        return NeighborKV(torch.cat([self.keys, second]), torch.cat([self.values, self.values]))


class NeighborAttention(nn.Module):
    """Cross-attention with a local bias and a null token; residual, so zero output weights leave the map as it is.

    Args:
        channels: C of the attended map; a multiple of `head_dim`.
        head_dim: d.
        zero_init: start with a zero output projection, so that the network equals its base.

    Attributes:
        listener: told at each call who is looked at where, (B, H, W, K + 1) float32, the mass of the equation; its last
            column is the null token.
    """

    listener: Callable[[Tensor], None] | None = None

    def __init__(self, channels: int, head_dim: int, zero_init: bool = True) -> None:
        super().__init__()
        if channels % head_dim:
            raise ValueError(f"neighbor_head_dim: expected a divisor of {channels} channels, got {head_dim}")
        self.heads, self.head_dim = channels // head_dim, head_dim
        self.norm_query = nn.LayerNorm(channels)
        self.norm_key = nn.LayerNorm(channels)
        self.to_query = nn.Linear(channels, channels, bias=False)
        self.to_key = nn.Linear(channels, channels, bias=False)
        self.to_value = nn.Linear(channels, channels, bias=False)
        self.to_out = nn.Linear(channels, channels, bias=False)
        self.log_sigma = nn.Parameter(torch.empty(self.heads))
        self.null_logit = nn.Parameter(torch.empty(self.heads))
        self.zero_init = zero_init
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start again; diffusers loads checkpoints into modules that nothing has initialised."""
        for layer in (self.norm_query, self.norm_key, self.to_query, self.to_key, self.to_value, self.to_out):
            layer.reset_parameters()
        first, last = (math.log(sigma) for sigma in _SIGMAS)
        with torch.no_grad():
            self.log_sigma.copy_(torch.linspace(first, last, self.heads))
            self.null_logit.zero_()
            if self.zero_init:
                self.to_out.weight.zero_()

    def forward(
        self, maps: Tensor, neighbors: NeighborKV | None = None, *, weights: Tensor | None = None
    ) -> Tensor | NeighborKV:
        """`attend` to neighbors, or, given weights, `project` them: one entry, where hooks that move weights sit."""
        if weights is not None:
            return self.project(maps, weights)
        assert neighbors is not None
        return self.attend(maps, neighbors)

    def project(self, maps: Tensor, weights: Tensor) -> NeighborKV:
        """Keys and values of the neighbors, to be computed once an image.

        Args:
            maps: (B, K, C, H, W) second feature maps f(c_n, 0).
            weights: (B, K) w_n; 0 or False where there is no neighbor.
        """
        batch, count, channels, height, width = maps.shape
        tokens = self.norm_key(maps.permute(0, 1, 3, 4, 2).reshape(batch, count * height * width, channels))
        keys, values = self._split(self.to_key(tokens)), self._split(self.to_value(tokens))
        place = self._places(height, width, maps.device).repeat(count, 1)  # (M, 2)
        counted = weights.float().log().clamp(min=MASKED).repeat_interleave(height * width, dim=1)  # (B, M)
        bias = counted[:, None] - place.square().sum(1) * self._precision()[:, None] / 2  # (B, h, M)
        shape = (batch, self.heads, count * height * width)
        logits = [place[:, 0].expand(shape), place[:, 1].expand(shape), bias, torch.ones_like(bias)]
        extra = 4 * math.ceil((count + 1) / 4)  # a multiple of four is fast
        keys = torch.cat([F.pad(torch.stack(logits, dim=-1), (0, extra - 4)), keys.float()], dim=-1)
        null = torch.zeros_like(keys[:, :, :1])
        null[..., _BIAS] = self.null_logit[:, None]  # its query channel is 1
        owner = torch.arange(count, device=maps.device).repeat_interleave(height * width)
        owners = F.one_hot(owner, extra).float().expand(*shape, extra)
        values = torch.cat([owners, values.float()], dim=-1)
        nobody = torch.zeros_like(values[:, :, :1])
        nobody[..., count] = 1
        return NeighborKV(torch.cat([keys, null], dim=2), torch.cat([values, nobody], dim=2))

    def attend(self, sample: Tensor, neighbors: NeighborKV) -> Tensor:
        """Add what the neighbors say.

        Args:
            sample: (B, C, H, W) first feature map.
            neighbors: `project` of the same batch.

        Returns:
            (B, C, H, W); rows without neighbors come back bit for bit.
        """
        batch, channels, height, width = sample.shape
        count, extra = (neighbors.keys.shape[2] - 1) // (height * width), neighbors.keys.shape[3] - self.head_dim
        query = self._query(sample, extra)
        with _float32(sample.device):
            attended = F.scaled_dot_product_attention(query, neighbors.keys, neighbors.values, scale=1.0)
        if self.listener is not None:
            self.listener(attended[..., : count + 1].mean(dim=1).unflatten(1, (height, width)))
        content = attended[..., extra:]
        merged = content.transpose(1, 2).reshape(batch, height * width, channels).to(sample.dtype)
        out = self.to_out(merged).reshape(batch, height, width, channels).permute(0, 3, 1, 2)
        result: Tensor = sample + out.to(sample.dtype)
        return result

    def _query(self, sample: Tensor, extra: int) -> Tensor:
        """(B, C, H, W) -> (B, h, H * W, e + d) float32, the Gaussian's channels first."""
        batch, channels, height, width = sample.shape
        tokens = sample.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        query = self._split(self.to_query(self.norm_query(tokens))).float() / self.head_dim**0.5
        place = self._places(height, width, sample.device)  # (H * W, 2)
        precision = self._precision()[:, None]  # (h, 1)
        shape = (batch, self.heads, height * width)
        logits = [
            (place[:, 0] * precision).expand(shape),
            (place[:, 1] * precision).expand(shape),
            torch.ones(shape, device=sample.device),
            (-place.square().sum(1) * precision / 2).expand(shape),
        ]
        return torch.cat([F.pad(torch.stack(logits, dim=-1), (0, extra - 4)), query], dim=-1)

    def _split(self, tokens: Tensor) -> Tensor:
        """(B, M, C) -> (B, h, M, d)."""
        batch, count, _ = tokens.shape
        return tokens.view(batch, count, self.heads, self.head_dim).transpose(1, 2)

    def _precision(self) -> Tensor:
        """1 / sigma^2 of each head, (h,), float32."""
        return torch.exp(-2 * self.log_sigma.float())

    @staticmethod
    def _places(height: int, width: int, device: torch.device) -> Tensor:
        """Centred coordinates of the cells, (H * W, 2), float32."""
        rows = torch.arange(height, device=device, dtype=torch.float32) - (height - 1) / 2
        columns = torch.arange(width, device=device, dtype=torch.float32) - (width - 1) / 2
        return torch.cartesian_prod(rows, columns)


def _float32(device: torch.device) -> AbstractContextManager[None]:
    """No autocast: the local bias needs float32. The meta device knows none."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
