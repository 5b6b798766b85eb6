"""The seam that any denoising network can have: encode, attend, decode.

    h     = encode(x_t, t, c_p)               the network up to the maps that neighbors act on           [0060-61]
    N_m   = project(h_m(x_n, 0, c_n))         keys and values of every neighbor n, once an image         [0066-68]
    h'_m  = h_m + A_m(h_m, N_m)               attend, at every attended map m (models.neighbor_attention) [0069-70]
    y     = decode(h')                        the rest of the network: eps, v or x_0                     [0071]

`RetrievalUNet` has the seam after its bottleneck; a transformer has it between two of its blocks, where the tokens of
the patches are a map (B, C, h, w) as well. Neighbors act on the maps alone, so whatever else a network is told (text,
size, ControlNet) is its own business. What draws (`models.generator`, `sampling.attention`, `sampling.neighbor_cache`)
asks of a network what `Backbone` says and nothing else.

Shapes: B batch, K neighbors, N distinct neighbors, L text tokens, D text width, C/H/W the network's input.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from rag_diffusion.models.neighbor_attention import NeighborAttention
from rag_diffusion.models.neighbor_kv import NeighborKV

NeighborFeatures = Mapping[str, NeighborKV]
Maps = TypeVar("Maps")


class Backbone(Protocol[Maps]):
    """A network that draws with neighbors; `Maps` is what it holds at the seam, h of the equations.

    Attributes:
        config: `in_channels`, `sample_size` and `neighbor_roles`, whether it tells roles apart.
        dtype: of its weights.
        size_multiple: of how many cells of the input the sides of a drawing must be multiples.
    """

    config: Any

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        ...

    @property
    def size_multiple(self) -> int:
        """Of the sides of a drawing, in cells of the input."""
        ...

    def encode(self, sample: Tensor, timestep: Tensor | float, conditions: Any) -> Maps:
        """h = E(x_t, t, c).

        Args:
            sample: (B, C, H, W) noisy input.
            timestep: () or (B,).
            conditions: c, texts and what else the network knows.
        """
        ...

    def attend(self, encoded: Maps, neighbors: NeighborFeatures) -> Maps:
        """h'_m = h_m + A_m(h_m, N_m).

        Args:
            encoded: h of B images.
            neighbors: N of these images.
        """
        ...

    def decode(self, encoded: Maps) -> Tensor:
        """y = D(h), (B, C_out, H, W), of `encoded`, h or h'."""
        ...

    def encode_neighbors(
        self,
        sample: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        **conditions: Any,
    ) -> dict[str, Tensor]:
        """h_m(x_n, 0, c_n) of N neighbors at every attended map m.

        Args:
            sample: (N, C, H, W) clean.
            encoder_hidden_states: (N, L, D) captions.
            encoder_attention_mask: (N, L) one where there is a token.
            **conditions: what else the network is told.
        """
        ...

    def project_neighbors(
        self,
        maps: Mapping[str, Tensor],
        rows: Tensor,
        weights: Tensor,
        roles: Tensor | None = None,
        *,
        controlled: bool = False,
    ) -> dict[str, NeighborKV]:
        """Keys and values N_m.

        Args:
            maps: of `encode_neighbors`.
            rows: (B, K) which neighbor each image sees.
            weights: (B, K) how much it counts.
            roles: (B, K) `CONTENT` or `STYLE`.
            controlled: make room for `NeighborKV.control`.
        """
        ...

    def attentions(self) -> list[tuple[str, NeighborAttention]]:
        """Attended map m -> its A_m."""
        ...

    def __call__(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **options: Any) -> Any:
        """One pass over the seam; `.sample` is y.

        Args:
            sample: (B, C, H, W).
            timestep: () or (B,).
            encoder_hidden_states: (B, L, D) text.
            **options: `encoder_attention_mask` of the text; `neighbors`, `and_without` and `and_with` as in
                `NeighborBackbone.decoded`; `maps_only` stops at the seam, for `encode_neighbors`.
        """
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """As in `nn.Module`."""
        ...

    def modules(self) -> Iterator[nn.Module]:
        """As in `nn.Module`."""
        ...

    def to(self, *args: Any, **options: Any) -> Any:
        """As in `nn.Module`, with the same `args` and `options`."""
        ...


class NeighborBackbone(ABC, Generic[Maps]):
    """What neighbors add to a network, over four methods of its own: a base class beside `nn.Module`.

    It has to have `encode` and `decode` of `Backbone`, `attended_maps`, `with_maps` and `joined`; its `forward` ends
    with `decoded`, and with `maps_only` returns `attended_maps`.

    Attributes:
        neighbor_attention: attended map -> its `NeighborAttention`.
    """

    __slots__ = ()  # objects keep the layout of the network, which is the first base, see `models.shared_weights`
    neighbor_attention: nn.ModuleDict

    @abstractmethod
    def decode(self, encoded: Maps) -> Tensor:
        """y = D(h), of `encoded`."""

    @abstractmethod
    def attended_maps(self, encoded: Maps) -> dict[str, Tensor]:
        """h_m, (B, C_m, H_m, W_m), of `encoded`, at every attended map, and finer maps that go with one."""

    @abstractmethod
    def with_maps(self, encoded: Maps, maps: Mapping[str, Tensor]) -> Maps:
        """`encoded` with `maps` in the place of those of their names."""

    @abstractmethod
    def joined(self, one: Maps, other: Maps) -> Maps:
        """`one` and `other` of the same B images as a batch of 2B."""

    def encode_neighbors(
        self,
        sample: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        **conditions: Any,
    ) -> dict[str, Tensor]:
        """Second feature maps f(c_n, 0): the encoder at timestep 0, clean images.

        Args:
            sample: (N, C, H, W) clean neighbor images, one row each; latents by the VAE's mode for a latent model.
            encoder_hidden_states: (N, L, D) their captions.
            encoder_attention_mask: (N, L) one where there is a token.
            **conditions: `class_labels` and `added_cond_kwargs` of the neighbors, where the base has them; nothing of
                ControlNet, T2I-Adapter or GLIGEN, which belong to the image that is drawn.

        Returns:
            Attended map -> (N, C', H', W').
        """
        network: Any = self
        maps: dict[str, Tensor] = network(
            sample,
            torch.zeros((), device=sample.device),
            encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            maps_only=True,
            **conditions,
        )
        return maps

    def project_neighbors(
        self,
        maps: Mapping[str, Tensor],
        rows: Tensor,
        weights: Tensor,
        roles: Tensor | None = None,
        *,
        controlled: bool = False,
    ) -> dict[str, NeighborKV]:
        """Keys and values for a batch out of maps of distinct neighbors.

        Args:
            maps: `encode_neighbors` of N distinct neighbors.
            rows: (B, K) which of the N each image sees; anything where the weight is zero.
            weights: (B, K) how much each neighbor counts: 1 plainly, 0 (or False) not at all.
            roles: (B, K) `CONTENT` or `STYLE`; None is content. A network without roles takes all for content.
            controlled: make room for `NeighborKV.control`, a weight by step, map and cell.

        Returns:
            Attended map -> keys and values for B images, as `forward` takes them.
        """
        return {
            name: attention(
                maps[name],
                fine=[maps[finer] for finer in attention.fine],
                rows=rows,
                weights=weights,
                roles=roles,
                controlled=controlled,
            )
            for name, attention in self.attentions()
        }

    def attend(self, encoded: Maps, neighbors: NeighborFeatures) -> Maps:
        """Rewrite the attended maps by attention to the neighbors.

        Args:
            encoded: first maps of B images.
            neighbors: attended map -> keys and values for these images.

        Returns:
            The same with the attended maps in place of those that were.
        """
        maps = self.attended_maps(encoded)
        for name, attention in self.attentions():
            names = [name, *attention.fine]
            attended = attention(maps[name], neighbors[name], fine=[maps[finer] for finer in attention.fine])
            maps |= dict(zip(names, attended, strict=True))
        return self.with_maps(encoded, maps)

    def decoded(
        self,
        encoded: Maps,
        neighbors: NeighborFeatures | None = None,
        *,
        and_without: bool = False,
        and_with: NeighborFeatures | None = None,
    ) -> Tensor:
        """What the network predicts from the seam on: predictions with and without neighbors share one encoder pass.

        Args:
            encoded: h of B images.
            neighbors: N of these images; None is k = 0, the base network.
            and_without: also predict without them: (2B, ...), with them first.
            and_with: also predict with these in their place: (2B, ...), `neighbors` first.

        Returns:
            (B, C_out, H, W), or 2B.
        """
        if and_with is not None and neighbors is not None:
            encoded = self.joined(encoded, encoded)
            neighbors = {name: NeighborKV.cat([kv, and_with[name]]) for name, kv in neighbors.items()}
        attended = encoded if neighbors is None else self.attend(encoded, neighbors)
        return self.decode(self.joined(attended, encoded) if and_without else attended)

    def randomize_output(self, deviation: float = 0.02) -> None:
        """Start the output projections of the neighbor attention from random weights of a standard `deviation`."""
        for _, attention in self.attentions():
            attention.randomize_output(deviation)

    def attentions(self) -> list[tuple[str, NeighborAttention]]:
        """Attended map -> its neighbor attention."""
        return [(name, cast(NeighborAttention, module)) for name, module in self.neighbor_attention.items()]
