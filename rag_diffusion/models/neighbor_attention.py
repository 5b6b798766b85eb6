"""Attention from a target's feature map to those of its neighbors.

Equation, per head with width d, for a query at cell p and a key of neighbor n, of role o_n, at cell r (patent
[0069-70], claim 8):

    logit(p, n, r) = q_p . (k_{n,r} + k_o) / sqrt(d) + b_o - g |p - r|^2 / (2 sigma^2) + log w_n + log c_n(p)
    logit(p, null) = learned, one a head; its value is 0
    out_p = W_out concat_heads sum_{n,r} softmax(logit)_{n,r} (v_{n,r} + v_o)         W_out without bias

The Gaussian term, the local prior, makes a query look at its own place in each neighbor first; its width sigma is
learned, one a head, in cells, and its strength g is a setting: 1 as learned, 0 lets content alone decide.
Heads that start with a wide one are free of it: they find by content what stands elsewhere or in another size. k_o,
v_o and b_o are learned and say which role a neighbor has: content (it shows the thing) or style (it shows the
manner). A weight w_n of 2 counts a neighbor twice, 0 hides it; c_n(p) is a further one that may differ from step to
step and from cell to cell of the target: a mask, a curve, a weight by map (`models.neighbor_control`). The null token
lets a query attend to nothing; a row without neighbors attends to it alone, so its output is exactly zero. The Gaussian
is an inner product (here g = 1),

    -|p - r|^2 / (2 sigma^2) = (p / sigma^2) . r  -  |r|^2 / (2 sigma^2)  -  |p|^2 / (2 sigma^2),

so it rides along as four more channels of q and k: no (queries x keys) bias is ever built, and neither is a mask.
log c_n(p) rides along as well, where there is any: a channel of q for each neighbor, which is 1 in its keys. Channels
of v say to which neighbor a key belongs, so how much each neighbor is looked at is a by-product:

    mass_p(n) = mean_heads sum_r softmax(logit)_{n,r}                               sums to 1 with the null token

The same weights select the neighbors' finer maps, cut into the same cells (`models.fine_transfer`): more channels of v.

Shapes: B batch, K neighbors of each, N distinct neighbors, C channels, H/W map, S = H * W cells, M = K * S keys, h
heads, d head width, e extra channels, f channels of all finer maps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rag_diffusion.models.fine_transfer import FineTransfer
from rag_diffusion.models.neighbor_kv import BIAS, CONTENT, MASKED, STYLE, NeighborKV

_LOGITS = 4  # extra channels that make up the Gaussian and the weights
_SIGMAS = (0.3, 2.5)  # cells; first and last head with a local prior at the start
_FREE_SIGMA = 100.0  # cells; a head without one
_ROLE_LOGIT = 3.0  # how much a head prefers its role at the start


class NeighborAttention(nn.Module):
    """Cross-attention with a local bias and a null token; residual, so zero output weights leave the map as it is.

    Args:
        channels: C of the attended map; a multiple of `head_dim`.
        head_dim: d.
        zero_init: start with a zero output projection, so that the network equals its base.
        free_heads: share of the heads that start without local prior.
        roles: whether neighbors have roles; without, all of them show content.
        fine: finer maps that the same weights select, name -> (channels, how many times finer).
        fine_dim: channels a head and finer map.
        prior_strength: g, how strongly place counts.

    Attributes:
        listener: told at each call who is looked at where, (B, H, W, K + 1) float32, the mass of the equation; its last
            column is the null token.

    Raises:
        ValueError: a head does not fit, or the strength is no number of at least 0.
    """

    listener: Callable[[Tensor], None] | None = None

    def __init__(
        self,
        channels: int,
        head_dim: int,
        zero_init: bool = True,
        *,
        free_heads: float = 0.0,
        roles: bool = False,
        fine: Mapping[str, tuple[int, int]] | None = None,
        fine_dim: int = 24,
        prior_strength: float = 1.0,
    ) -> None:
        super().__init__()
        if not (math.isfinite(prior_strength) and prior_strength >= 0):
            raise ValueError(
                f"neighbor_prior_strength: expected a finite number of at least 0, got {prior_strength}; 0 lets "
                "content alone decide"
            )
        if channels % head_dim:
            raise ValueError(f"neighbor_head_dim: expected a divisor of {channels} channels, got {head_dim}")
        self.heads, self.head_dim = channels // head_dim, head_dim
        self.prior_strength = prior_strength
        self.norm_query = nn.LayerNorm(channels)
        self.norm_key = nn.LayerNorm(channels)
        self.to_query = nn.Linear(channels, channels, bias=False)
        self.to_key = nn.Linear(channels, channels, bias=False)
        self.to_value = nn.Linear(channels, channels, bias=False)
        self.to_out = nn.Linear(channels, channels, bias=False)
        self.log_sigma = nn.Parameter(torch.empty(self.heads))
        self.null_logit = nn.Parameter(torch.empty(self.heads))
        self.role = RoleEmbedding(self.heads, head_dim) if roles else None
        self.fine = nn.ModuleDict(
            {
                name: FineTransfer(width, factor, self.heads, fine_dim, zero_init)
                for name, (width, factor) in (fine or {}).items()
            }
        )
        self.zero_init, self.num_free = zero_init, round(free_heads * self.heads)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start again; diffusers loads checkpoints into modules that nothing has initialised."""
        for layer in (self.norm_query, self.norm_key, self.to_query, self.to_key, self.to_value, self.to_out):
            layer.reset_parameters()
        first, last = (math.log(sigma) for sigma in _SIGMAS)
        local = self.heads - self.num_free
        with torch.no_grad():
            self.log_sigma.fill_(math.log(_FREE_SIGMA))
            self.log_sigma[:local] = torch.linspace(first, last, local)
            self.null_logit.zero_()
            if self.zero_init:
                self.to_out.weight.zero_()
        self.reset_extensions(from_scratch=True)

    def reset_extensions(self, names: Sequence[str] = (), *, from_scratch: bool = False) -> None:
        """Start what a trained attention is extended by: roles that change nothing, finer maps that add nothing.

        Args:
            names: of the parameters that nobody has set, as in `named_parameters`; the others stay.
            from_scratch: all of them, and style gets heads of its own: half of the free ones.
        """
        if self.role is not None and (from_scratch or any(name.startswith("role.") for name in names)):
            self.role.reset_parameters(math.ceil(self.num_free / 2) if from_scratch else 0)
        for key, transfer in self.fine.items():
            if from_scratch or any(name.startswith(f"fine.{key}.") for name in names):
                assert isinstance(transfer, FineTransfer)
                transfer.reset_parameters()

    def randomize_output(self, deviation: float) -> None:
        """Start the output projections from random weights of a standard `deviation` instead of zeros."""
        for layer in (self.to_out, *(transfer.to_out for transfer in self.fine.values())):
            assert isinstance(layer, nn.Linear)
            nn.init.normal_(layer.weight, std=deviation)

    def forward(
        self,
        maps: Tensor,
        neighbors: NeighborKV | None = None,
        *,
        fine: Sequence[Tensor] = (),
        rows: Tensor | None = None,
        weights: Tensor | None = None,
        roles: Tensor | None = None,
        controlled: bool = False,
    ) -> tuple[Tensor, ...] | NeighborKV:
        """`attend` to neighbors, or, given weights, `project` them: one entry, where hooks that move weights sit.

        Args:
            maps: (B, C, H, W) to attend from, or (N, C, H, W) to project.
            neighbors: to attend to.
            fine: the finer maps of `maps`.
            rows: of `project`.
            weights: of `project`.
            roles: of `project`.
            controlled: of `project`.

        Returns:
            What `attend` or `project` returns.
        """
        if weights is not None:
            assert rows is not None
            return self.project(maps, rows, weights, fine=fine, roles=roles, controlled=controlled)
        assert neighbors is not None
        return self.attend(maps, neighbors, fine)

    def project(
        self,
        maps: Tensor,
        rows: Tensor,
        weights: Tensor,
        *,
        fine: Sequence[Tensor] = (),
        roles: Tensor | None = None,
        controlled: bool = False,
    ) -> NeighborKV:
        """Keys and values of the neighbors, to be computed once an image.

        Args:
            maps: (N, C, H, W) second feature maps f(c_n, 0).
            rows: (B, K) which of the N each image sees; anything where the weight is zero.
            weights: (B, K) w_n; 0 or False where there is no neighbor.
            fine: their finer maps, (N, C', H', W') each.
            roles: (B, K) `CONTENT` or `STYLE`; None is content.
            controlled: make room for `NeighborKV.control`.
        """
        height, width = maps.shape[-2:]
        count, cells = rows.shape[1], height * width
        tokens = self.norm_key(maps.permute(0, 2, 3, 1).reshape(-1, cells, maps.shape[1]))
        keys = self._gather(self._split(self.to_key(tokens)), rows)
        values = self._gather(self._split(self.to_value(tokens)), rows)
        place = self._places(height, width, maps.device).repeat(count, 1)  # (M, 2)
        counted = weights.float().log().clamp(min=MASKED).repeat_interleave(cells, dim=1)  # (B, M)
        bias = counted[:, None] - place.square().sum(1) * self._precision()[:, None] / 2  # (B, h, M)
        if self.role is not None:
            given = torch.zeros_like(rows) if roles is None else roles
            role_keys, role_values, role_bias = self.role(given.repeat_interleave(cells, dim=1))
            keys, values, bias = keys + role_keys, values + role_values, bias + role_bias
        shape = bias.shape
        logits = [place[:, 0].expand(shape), place[:, 1].expand(shape), bias, torch.ones_like(bias)]
        extra = 4 * math.ceil((count + (_LOGITS if controlled else 1)) / 4)  # a multiple of four is fast
        owner = torch.arange(count, device=maps.device).repeat_interleave(cells)
        more = F.one_hot(owner, extra - _LOGITS).float().expand(*shape, -1) if controlled else None
        keys = torch.cat([*_with_places(logits, extra, more), keys], dim=-1)
        null = torch.zeros_like(keys[:, :, :1])
        null[..., BIAS] = self.null_logit[:, None]  # its query channel is 1
        owners = F.one_hot(owner, extra).float().expand(*shape, extra)
        finer = [
            self._gather(cast(FineTransfer, transfer).values(finer_maps), rows)
            for transfer, finer_maps in zip(self.fine.values(), fine, strict=True)
        ]
        values = torch.cat([owners, values, *finer], dim=-1)
        nobody = torch.zeros_like(values[:, :, :1])
        nobody[..., count] = 1
        return NeighborKV(torch.cat([keys, null], dim=2), torch.cat([values, nobody], dim=2))

    def attend(self, sample: Tensor, neighbors: NeighborKV, fine: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
        """Add what the neighbors say.

        Args:
            sample: (B, C, H, W) first feature map.
            neighbors: `project` of the same batch.
            fine: its finer maps, (B, C', H', W') each.

        Returns:
            The map and the finer ones; rows without neighbors come back bit for bit.
        """
        batch, channels, height, width = sample.shape
        count, extra = (neighbors.keys.shape[2] - 1) // (height * width), neighbors.keys.shape[3] - self.head_dim
        query = self._query(sample, extra, neighbors.control)
        with _float32(sample.device):
            attended = _attention(query, neighbors.keys, neighbors.values)
        if self.listener is not None:
            self.listener(attended[..., : count + 1].mean(dim=1).unflatten(1, (height, width)))
        widths = [extra, self.head_dim, *(one.width for one in self.fine.values())]
        _, content, *finer = attended.split(widths, dim=-1)
        merged = content.transpose(1, 2).reshape(batch, height * width, channels).to(sample.dtype)
        out = self.to_out(merged).reshape(batch, height, width, channels).permute(0, 3, 1, 2)
        added = [transfer(one, cells) for transfer, one, cells in zip(self.fine.values(), fine, finer, strict=True)]
        return (sample + out.to(sample.dtype), *added)

    def _query(self, sample: Tensor, extra: int, control: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, h, S, e + d) float32; the channels of the Gaussian and of `control` come first."""
        batch, channels, height, width = sample.shape
        tokens = sample.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        query = self._split(self.to_query(self.norm_query(tokens))).transpose(1, 2).float() / self.head_dim**0.5
        place = self._places(height, width, sample.device)  # (S, 2)
        precision = self._precision()[:, None]  # (h, 1)
        shape = (batch, self.heads, height * width)
        logits = [
            (place[:, 0] * precision).expand(shape),
            (place[:, 1] * precision).expand(shape),
            torch.ones(shape, device=sample.device),
            (-place.square().sum(1) * precision / 2).expand(shape),
        ]
        more = None
        if control is not None:
            more = F.pad(control.transpose(1, 2), (0, extra - _LOGITS - control.shape[1]))[:, None]
            more = more.expand(*shape, -1)
        return torch.cat([*_with_places(logits, extra, more), query], dim=-1)

    def _split(self, tokens: Tensor) -> Tensor:
        """(B, S, C) -> (B, S, h, d)."""
        heads: Tensor = tokens.unflatten(2, (self.heads, self.head_dim))
        return heads

    @staticmethod
    def _gather(tokens: Tensor, rows: Tensor) -> Tensor:
        """Tokens (N, S, h, d) of distinct neighbors -> (B, h, K * S, d) float32 of those that each image sees."""
        return tokens[rows].flatten(1, 2).transpose(1, 2).float()

    def _precision(self) -> Tensor:
        """g / sigma^2 of each head, (h,), float32."""
        learned = torch.exp(-2 * self.log_sigma.float())
        return learned if self.prior_strength == 1 else learned * self.prior_strength

    @staticmethod
    def _places(height: int, width: int, device: torch.device) -> Tensor:
        """Centred coordinates of the cells, (S, 2), float32."""
        rows = torch.arange(height, device=device, dtype=torch.float32) - (height - 1) / 2
        columns = torch.arange(width, device=device, dtype=torch.float32) - (width - 1) / 2
        return torch.cartesian_prod(rows, columns)


class RoleEmbedding(nn.Module):
    """k_o, v_o and b_o of the equation for both roles; content has k_o = v_o = 0.

    Args:
        heads: h.
        head_dim: d.
    """

    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__()
        self.key = nn.Parameter(torch.empty(heads, head_dim))
        self.value = nn.Parameter(torch.empty(heads, head_dim))
        self.logit = nn.Parameter(torch.empty(2, heads))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, style_heads: int = 0) -> None:
        """Roles that change nothing; or the last `style_heads` heads for style and the others for content."""
        self.key.zero_()
        self.value.zero_()
        self.logit.zero_()
        if style_heads:
            self.logit[STYLE, :-style_heads] = -_ROLE_LOGIT
            self.logit[CONTENT, -style_heads:] = -_ROLE_LOGIT

    def forward(self, roles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`roles` (B, M) -> what is added to keys (B, h, M, d), to values (B, h, M, d), and to logits (B, h, M)."""
        style = (roles == STYLE).float()[:, None, :, None]
        content_logit, style_logit = self.logit.float()[..., None]  # (h, 1); an index would be summed slowly backwards
        bias = content_logit + style[..., 0] * (style_logit - content_logit)
        return style * self.key.float()[:, None], style * self.value.float()[:, None], bias


def _with_places(logits: Sequence[Tensor], extra: int, more: Tensor | None) -> list[Tensor]:
    """The extra channels: the Gaussian's, then `more` (B, h, S, e - 4), or zeros."""
    places = torch.stack(tuple(logits), dim=-1)
    return [F.pad(places, (0, extra - _LOGITS))] if more is None else [places, more]


def _attention(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """softmax(q k) v in one call; a CPU's fast kernel wants q, k and v of one width, so zeros fill q and k."""
    short = values.shape[-1] - keys.shape[-1]
    if short and query.device.type == "cpu":
        query, keys = F.pad(query, (0, short)), F.pad(keys, (0, short))
    return F.scaled_dot_product_attention(query, keys, values, scale=1.0)


def _float32(device: torch.device) -> AbstractContextManager[None]:
    """No autocast: the local bias needs float32. The meta device knows none."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
