"""RetrievalUNet: a diffusers U-Net that attends to the feature maps of its neighbors.

encode  f(x_t, c_p, t)    the base's own encoder and bottleneck: skip maps and bottleneck map      [0060-61]
        f(c_n, 0)         the same encoder (or a copy) on each neighbor's pixels and text, t = 0    [0066-68]
attend  first maps to second maps, on the bottleneck and chosen skip maps, after the whole encoder [0069-70]
decode  the base's own decoder turns the attended maps into the prediction                         [0071]

f(c_n, 0) depends neither on x_t nor on t: `encode_neighbors` and `project_neighbors` are called once an image,
`forward` at every step. Since neighbors act after the encoder, predictions with and without them share one pass of it.

Shapes: B batch, K neighbors, N distinct neighbors, L text tokens, D text width, C/H/W the U-Net's input.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from diffusers.utils.peft_utils import apply_lora_scale
from torch import Tensor, nn

from rag_diffusion.models.neighbor_attention import NeighborAttention, NeighborKV
from rag_diffusion.models.unet_split import Conditions, Encoded, decode, encode, side_by_side

BOTTLENECK = "mid"
_DECODER = ("up_blocks", "conv_norm_out", "conv_out")
_OWN = ("neighbor_attention.", "neighbor_encoder.")

NeighborFeatures = Mapping[str, NeighborKV]


def _signature() -> inspect.Signature:
    """The base's own keywords and ours, so that diffusers' config keeps them all."""
    base = list(inspect.signature(UNet2DConditionModel.__init__).parameters.values())
    own = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in (("neighbor_skips", ()), ("neighbor_head_dim", 32), ("separate_neighbor_encoder", False))
    ]
    return inspect.Signature([*base, *own])


class RetrievalUNet(UNet2DConditionModel):
    """`UNet2DConditionModel` with neighbor attention; without neighbors it is its base, bit for bit.

    Args:
        neighbor_skips: indices of the skip maps (0 is the output of `conv_in`) attended besides the bottleneck.
        neighbor_head_dim: width of a head of the neighbor attention; divides the width of every attended map.
        separate_neighbor_encoder: a second encoder for neighbors [0068], which starts as a copy of the first.
        **base: every argument of `UNet2DConditionModel`.

    Raises:
        ValueError: an index names no skip map, or a head does not fit.
    """

    def __init__(
        self,
        *,
        neighbor_skips: Sequence[int] = (),
        neighbor_head_dim: int = 32,
        separate_neighbor_encoder: bool = False,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        channels = self._skip_channels()
        wrong = [index for index in neighbor_skips if not 0 <= index < len(channels)]
        if wrong:
            raise ValueError(f"neighbor_skips: expected indices below {len(channels)}, got {wrong}")
        widths = {str(index): channels[index] for index in neighbor_skips} | {BOTTLENECK: channels[-1]}
        self.neighbor_attention = nn.ModuleDict(
            {name: NeighborAttention(width, neighbor_head_dim) for name, width in widths.items()}
        )
        self.neighbor_encoder = _encoder_alone(UNet2DConditionModel(**base)) if separate_neighbor_encoder else None
        self._copy_encoder()

    __init__.__signature__ = _signature()  # type: ignore[attr-defined]
    __init__ = register_to_config(__init__)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Read a folder of this class, or of a plain `UNet2DConditionModel`, whose neighbor attention starts as zero.

        Args:
            pretrained_model_name_or_path: as in diffusers.
            **kwargs: as in diffusers, and this class's own arguments.

        Raises:
            ValueError: a weight of the base is missing, or one is not finite.
        """
        with_info = kwargs.pop("output_loading_info", False)
        kwargs["low_cpu_mem_usage"] = False  # with it, new modules stay on the meta device
        model, info = super().from_pretrained(pretrained_model_name_or_path, output_loading_info=True, **kwargs)
        absent = [name for name in info["missing_keys"] if not name.startswith(_OWN)]
        if absent:
            raise ValueError(
                f"{pretrained_model_name_or_path}: expected every weight of the U-Net, got none for {len(absent)}, "
                f"e.g. {absent[:3]}; is it a checkpoint of this architecture?"
            )
        for name, attention in model.attentions():
            if any(missing.startswith(f"neighbor_attention.{name}.") for missing in info["missing_keys"]):
                attention.reset_parameters()
        if any(name.startswith("neighbor_encoder.") for name in info["missing_keys"]):
            model._copy_encoder()
        broken = [name for name, value in model.state_dict().items() if not torch.isfinite(value).all()]
        if broken:
            raise ValueError(
                f"{pretrained_model_name_or_path}: expected finite weights, got NaN or infinity in {broken[:3]}; "
                "load another checkpoint, or the float32 one"
            )
        return (model, info) if with_info else model

    @apply_lora_scale("cross_attention_kwargs")  # type: ignore[untyped-decorator]
    def forward(  # noqa: D417  -- arguments of one kind share a line
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        class_labels: Tensor | None = None,
        timestep_cond: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        added_cond_kwargs: dict[str, Any] | None = None,
        down_block_additional_residuals: Sequence[Tensor] | None = None,
        mid_block_additional_residual: Tensor | None = None,
        down_intrablock_additional_residuals: Sequence[Tensor] | None = None,
        encoder_attention_mask: Tensor | None = None,
        return_dict: bool = True,
        *,
        neighbors: NeighborFeatures | None = None,
        and_without: bool = False,
        maps_only: bool = False,
    ) -> UNet2DConditionOutput | tuple[Tensor] | dict[str, Tensor]:
        """Predict the noise term (or v, or x_0) of `sample`; the one entry, where hooks of DDP and offload sit.

        Args:
            sample: (B, C, H, W) noisy input.
            timestep: () or (B,).
            encoder_hidden_states: (B, L, D) text.
            class_labels, timestep_cond, attention_mask, cross_attention_kwargs, added_cond_kwargs: as in diffusers.
            down_block_additional_residuals, mid_block_additional_residual: of a ControlNet.
            down_intrablock_additional_residuals: of a T2I-Adapter; the list is left as it is.
            encoder_attention_mask: (B, L) one where there is a token.
            return_dict: whether to wrap the output, as in diffusers.
            neighbors: `project_neighbors` of this batch; None is k = 0, the base network.
            and_without: also predict without the neighbors, out of the same encoder pass: (2B, ...), with them first.
            maps_only: stop after the encoder and return the maps that neighbor attention reads; see `encode_neighbors`.

        Returns:
            (B, C_out, H, W) in `.sample`, or as a tuple.
        """
        conditions = Conditions(
            text=encoder_hidden_states,
            text_mask=encoder_attention_mask,
            attention_mask=attention_mask,
            class_labels=class_labels,
            timestep_cond=timestep_cond,
            added=added_cond_kwargs,
            cross_attention_kwargs=cross_attention_kwargs,
            down_residuals=down_block_additional_residuals,
            mid_residual=mid_block_additional_residual,
            intrablock_residuals=down_intrablock_additional_residuals,
        )
        if maps_only:
            encoder = self if self.neighbor_encoder is None else self.neighbor_encoder
            return self._attended_maps(encode(encoder, sample, timestep, conditions))
        encoded = encode(self, sample, timestep, conditions)
        attended = encoded if neighbors is None else self.attend(encoded, neighbors)
        output = decode(self, side_by_side(attended, encoded) if and_without else attended)
        return UNet2DConditionOutput(sample=output) if return_dict else (output,)

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
        maps: dict[str, Tensor] = self(
            sample,
            torch.zeros((), device=sample.device),
            encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            maps_only=True,
            **conditions,
        )
        return maps

    def project_neighbors(self, maps: Mapping[str, Tensor], rows: Tensor, weights: Tensor) -> dict[str, NeighborKV]:
        """Keys and values for a batch out of maps of distinct neighbors.

        Args:
            maps: `encode_neighbors` of N distinct neighbors.
            rows: (B, K) which of the N each image sees; anything where the weight is zero.
            weights: (B, K) how much each neighbor counts: 1 plainly, 0 (or False) not at all.
        """
        return {name: attention(maps[name][rows], weights=weights) for name, attention in self.attentions()}

    def attend(self, encoded: Encoded, neighbors: NeighborFeatures) -> Encoded:
        """Rewrite the bottleneck and the chosen skip maps by attention to the neighbors."""
        skips = list(encoded.skips)
        for name, attention in self.attentions():
            if name != BOTTLENECK:
                skips[int(name)] = attention(skips[int(name)], neighbors[name])
        mid = self.neighbor_attention[BOTTLENECK](encoded.mid, neighbors[BOTTLENECK])
        return replace(encoded, skips=tuple(skips), mid=mid)

    def randomize_output(self, deviation: float = 0.02) -> None:
        """Start the output projections of the neighbor attention from small random weights instead of zeros."""
        for _, attention in self.attentions():
            nn.init.normal_(attention.to_out.weight, std=deviation)

    def _attended_maps(self, encoded: Encoded) -> dict[str, Tensor]:
        return {
            name: encoded.mid if name == BOTTLENECK else encoded.skips[int(name)] for name in self.neighbor_attention
        }

    def attentions(self) -> list[tuple[str, NeighborAttention]]:
        """Attended map -> its neighbor attention."""
        return [(name, cast(NeighborAttention, module)) for name, module in self.neighbor_attention.items()]

    def _skip_channels(self) -> list[int]:
        """Channels of every skip map, in order; the last is the bottleneck's as well."""
        widths = [self.conv_in.out_channels]
        for block, width in zip(self.down_blocks, self.config.block_out_channels, strict=True):
            widths += [width] * (len(block.resnets) + (block.downsamplers is not None))
        return widths

    def _copy_encoder(self) -> None:
        """Let a separate neighbor encoder start from the weights of the first."""
        if self.neighbor_encoder is not None:
            own = self.neighbor_encoder.state_dict()
            self.neighbor_encoder.load_state_dict({name: self.state_dict()[name] for name in own})


def _encoder_alone(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A U-Net without its decoder."""
    for name in _DECODER:
        setattr(unet, name, None)
    return unet
