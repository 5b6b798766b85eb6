"""RetrievalUNet: a diffusers U-Net that attends to the feature maps of its neighbors.

encode  f(x_t, c_p, t)    the base's own encoder and bottleneck: skip maps and bottleneck map      [0060-61]
        f(c_n, 0)         the same encoder on each neighbor's pixels and text at timestep 0        [0066-68]
attend  first maps to second maps, on the bottleneck and chosen skip maps, after the whole encoder [0069-70]
decode  the base's own decoder turns the attended maps into the prediction                         [0071]

Shapes: B batch, K neighbors, L text tokens, D text width, C/H/W the U-Net's input.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn

from rag_diffusion.models.neighbor_attention import NeighborAttention, NeighborKV

BOTTLENECK = "mid"


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What `encode` hands to `attend` and `decode`: skip maps, bottleneck, embeddings."""

    skips: tuple[Tensor, ...]
    mid: Tensor
    embedding: Tensor
    text: Tensor
    text_bias: Tensor | None
    size: tuple[int, int]


NeighborFeatures = Mapping[str, NeighborKV]


def _signature() -> inspect.Signature:
    """The base's own keywords and ours, so that diffusers' config keeps them all."""
    base = list(inspect.signature(UNet2DConditionModel.__init__).parameters.values())
    own = [
        inspect.Parameter("neighbor_skips", inspect.Parameter.KEYWORD_ONLY, default=()),
        inspect.Parameter("neighbor_head_dim", inspect.Parameter.KEYWORD_ONLY, default=32),
    ]
    return inspect.Signature([*base, *own])


class RetrievalUNet(UNet2DConditionModel):
    """`UNet2DConditionModel` with neighbor attention; without neighbors it is its base, bit for bit.

    Args:
        neighbor_skips: indices of the skip maps (0 is the output of `conv_in`) attended besides the bottleneck.
        neighbor_head_dim: width of a head of the neighbor attention.
        **base: every argument of `UNet2DConditionModel`.

    Raises:
        ValueError: an index names no skip map.
    """

    def __init__(self, *, neighbor_skips: Sequence[int] = (), neighbor_head_dim: int = 32, **base: Any) -> None:
        super().__init__(**base)
        channels = self._skip_channels()
        wrong = [index for index in neighbor_skips if not 0 <= index < len(channels)]
        if wrong:
            raise ValueError(f"neighbor_skips: expected indices below {len(channels)}, got {wrong}")
        widths = {str(index): channels[index] for index in neighbor_skips} | {BOTTLENECK: channels[-1]}
        self.neighbor_attention = nn.ModuleDict(
            {name: NeighborAttention(width, neighbor_head_dim) for name, width in widths.items()}
        )

    __init__.__signature__ = _signature()  # type: ignore[attr-defined]
    __init__ = register_to_config(__init__)

    def encode_neighbors(
        self, sample: Tensor, encoder_hidden_states: Tensor, text_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Second feature maps f(c_n, 0): the shared encoder at timestep 0, clean pixels.

        Args:
            sample: (N, C, H, W) clean neighbor images, one row each.
            encoder_hidden_states: (N, L, D) their captions.
            text_mask: (N, L) one where there is a token.

        Returns:
            Attended map -> (N, C', H', W').
        """
        encoded = self.encode(sample, torch.zeros((), device=sample.device), encoder_hidden_states, text_mask)
        return {
            name: encoded.mid if name == BOTTLENECK else encoded.skips[int(name)] for name in self.neighbor_attention
        }

    def project_neighbors(self, maps: Mapping[str, Tensor], rows: Tensor, mask: Tensor) -> dict[str, NeighborKV]:
        """Keys and values for a batch out of maps of distinct neighbors.

        Args:
            maps: `encode_neighbors` of N distinct neighbors.
            rows: (B, K) which of the N each image sees; anything where the mask is false.
            mask: (B, K) true where there is a neighbor.
        """
        return {name: attention.project(maps[name][rows], mask) for name, attention in self._attentions()}

    def encode(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        text_mask: Tensor | None = None,
    ) -> Encoded:
        """First feature map f(x_t, c_p, t): the base's encoder and bottleneck.

        Args:
            sample: (B, C, H, W) noisy input.
            timestep: () or (B,).
            encoder_hidden_states: (B, L, D).
            text_mask: (B, L) one where there is a token.
        """
        size = (sample.shape[-2], sample.shape[-1])
        bias = None if text_mask is None else ((1 - text_mask.to(sample.dtype)) * -10000.0).unsqueeze(1)
        if self.config.center_input_sample:
            sample = 2 * sample - 1.0
        embedding = self.time_embedding(self.get_time_embed(sample=sample, timestep=timestep))
        added = self.get_aug_embed(emb=embedding, encoder_hidden_states=encoder_hidden_states, added_cond_kwargs={})
        embedding = embedding if added is None else embedding + added
        if self.time_embed_act is not None:
            embedding = self.time_embed_act(embedding)
        text = self.process_encoder_hidden_states(encoder_hidden_states=encoder_hidden_states, added_cond_kwargs={})
        sample = self.conv_in(sample)
        skips: tuple[Tensor, ...] = (sample,)
        for block in self.down_blocks:
            if getattr(block, "has_cross_attention", False):
                sample, maps = block(
                    hidden_states=sample,
                    temb=embedding,
                    encoder_hidden_states=text,
                    encoder_attention_mask=bias,
                )
            else:
                sample, maps = block(hidden_states=sample, temb=embedding)
            skips += tuple(maps)
        if self.mid_block is not None:
            if getattr(self.mid_block, "has_cross_attention", False):
                sample = self.mid_block(sample, embedding, encoder_hidden_states=text, encoder_attention_mask=bias)
            else:
                sample = self.mid_block(sample, embedding)
        return Encoded(skips=skips, mid=sample, embedding=embedding, text=text, text_bias=bias, size=size)

    def attend(self, encoded: Encoded, neighbors: NeighborFeatures) -> Encoded:
        """Rewrite the bottleneck and the chosen skip maps by attention to the neighbors."""
        skips = list(encoded.skips)
        for name, attention in self._attentions():
            if name != BOTTLENECK:
                skips[int(name)] = attention(skips[int(name)], neighbors[name])
        mid = self.neighbor_attention[BOTTLENECK](encoded.mid, neighbors[BOTTLENECK])
        return replace(encoded, skips=tuple(skips), mid=mid)

    def decode(self, encoded: Encoded) -> Tensor:
        """The base's decoder: (B, C_out, H, W)."""
        factor = 2**self.num_upsamplers
        odd = any(side % factor for side in encoded.size)
        sample, skips = encoded.mid, encoded.skips
        for number, block in enumerate(self.up_blocks):
            count = len(block.resnets)
            here, skips = skips[-count:], skips[:-count]
            size = skips[-1].shape[2:] if odd and number < len(self.up_blocks) - 1 else None
            arguments: dict[str, Any] = {
                "hidden_states": sample,
                "temb": encoded.embedding,
                "res_hidden_states_tuple": here,
            }
            if getattr(block, "has_cross_attention", False):
                arguments |= {
                    "encoder_hidden_states": encoded.text,
                    "encoder_attention_mask": encoded.text_bias,
                }
            sample = block(**arguments, upsample_size=size)
        if self.conv_norm_out:
            sample = self.conv_act(self.conv_norm_out(sample))
        output: Tensor = self.conv_out(sample)
        return output

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        *,
        encoder_attention_mask: Tensor | None = None,
        neighbors: NeighborFeatures | None = None,
        return_dict: bool = True,
    ) -> UNet2DConditionOutput | tuple[Tensor]:
        """Predict the noise term (or v, or x_0) of `sample`.

        Args:
            sample: (B, C, H, W) noisy input.
            timestep: () or (B,).
            encoder_hidden_states: (B, L, D) text.
            encoder_attention_mask: (B, L) one where there is a token.
            neighbors: `project_neighbors` of this batch; None is k = 0, the base network.
            return_dict: whether to wrap the output, as in diffusers.

        Returns:
            (B, C_out, H, W) in `.sample`, or as a tuple.
        """
        encoded = self.encode(sample, timestep, encoder_hidden_states, encoder_attention_mask)
        if neighbors is not None:
            encoded = self.attend(encoded, neighbors)
        output = self.decode(encoded)
        return UNet2DConditionOutput(sample=output) if return_dict else (output,)

    def randomize_output(self, deviation: float = 0.02) -> None:
        """Start the output projections of the neighbor attention from small random weights instead of zeros."""
        for _, attention in self._attentions():
            nn.init.normal_(attention.to_out.weight, std=deviation)

    def _attentions(self) -> list[tuple[str, NeighborAttention]]:
        return [(name, cast(NeighborAttention, module)) for name, module in self.neighbor_attention.items()]

    def _skip_channels(self) -> list[int]:
        """Channels of every skip map, in order; the last is the bottleneck's as well."""
        widths = [self.conv_in.out_channels]
        for block, width in zip(self.down_blocks, self.config.block_out_channels, strict=True):
            widths += [width] * (len(block.resnets) + (block.downsamplers is not None))
        return widths
