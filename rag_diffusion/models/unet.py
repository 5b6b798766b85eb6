"""RetrievalUNet: a diffusers U-Net that attends to the feature maps of its neighbors.

encode  f(x_t, c_p, t)    the base's own encoder and bottleneck: skip maps and bottleneck map      [0060-61]
        f(c_n, 0)         the same encoder (or a copy) on each neighbor's pixels and text, t = 0    [0066-68]
attend  first maps to second maps, on the bottleneck and chosen skip maps, after the whole encoder [0069-70];
        the weights of the finest of them may select still finer skip maps as well (models/fine_transfer.py)
decode  the base's own decoder turns the attended maps into the prediction                         [0071]

f(c_n, 0) depends neither on x_t nor on t: `encode_neighbors` and `project_neighbors` are called once an image,
`forward` at every step. Since neighbors act after the encoder, predictions with and without them share one pass of it.

Shapes: B batch, K neighbors, N distinct neighbors, L text tokens, D text width, C/H/W the U-Net's input.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from diffusers.utils.peft_utils import apply_lora_scale
from torch import Tensor, nn

from rag_diffusion.models import unet_split
from rag_diffusion.models.backbone import NeighborBackbone, NeighborFeatures
from rag_diffusion.models.neighbor_attention import NeighborAttention
from rag_diffusion.models.unet_split import Conditions, Encoded

BOTTLENECK = "mid"
_HEAD_DIM = 32  # width of a head where none is given and it fits
_DECODER = ("up_blocks", "conv_norm_out", "conv_out")
_OWN = ("neighbor_attention.", "neighbor_encoder.")

DEFAULTS: dict[str, Any] = {
    "neighbor_skips": (),
    "neighbor_head_dim": None,
    "separate_neighbor_encoder": False,
    "neighbor_fine_skips": (),
    "neighbor_fine_dim": 24,
    "neighbor_free_heads": 0.0,
    "neighbor_roles": False,
    "neighbor_prior_strength": 1.0,
}


def _signature() -> inspect.Signature:
    """The base's own keywords and ours, so that diffusers' config keeps them all."""
    base = list(inspect.signature(UNet2DConditionModel.__init__).parameters.values())
    own = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default) for name, default in DEFAULTS.items()
    ]
    return inspect.Signature([*base, *own])


class RetrievalUNet(UNet2DConditionModel, NeighborBackbone[Encoded]):
    """`UNet2DConditionModel` with neighbor attention; without neighbors it is its base, bit for bit.

    Args:
        neighbor_skips: indices of the skip maps (0 is the output of `conv_in`) attended besides the bottleneck.
        neighbor_head_dim: width of a head of the neighbor attention; divides the width of every attended map. None is
            32, and at a map whose width is no multiple of 32 their greatest common divisor.
        separate_neighbor_encoder: a second encoder for neighbors [0068], which starts as a copy of the first.
        neighbor_fine_skips: indices of finer skip maps that the attention of the finest attended one selects as well.
        neighbor_fine_dim: channels a head and finer map.
        neighbor_free_heads: share of the heads that start without local prior.
        neighbor_roles: whether neighbors are told apart into content and style.
        neighbor_prior_strength: how strongly place counts in the attention: 1 as the widths of the local prior say, 0
            not at all.
        **base: every argument of `UNet2DConditionModel`.

    Raises:
        ValueError: an index names no skip map, a finer one is not finer, or a head does not fit.

    Examples:
        >>> import torch
        >>> from rag_diffusion import RetrievalUNet
        >>> unet = RetrievalUNet.from_pretrained("data/base/unet")
        >>> images, text = torch.zeros(2, 3, 64, 64), torch.zeros(2, 8, unet.config.encoder_hid_dim)
        >>> maps = unet.encode_neighbors(images, text)  # f(c_n, 0) of two neighbors, once for all steps
        >>> neighbors = unet.project_neighbors(maps, rows=torch.tensor([[0, 1]]), weights=torch.ones(1, 2))
        >>> unet(torch.randn(1, 3, 64, 64), 500, text[:1], neighbors=neighbors).sample.shape
        torch.Size([1, 3, 64, 64])
    """

    def __init__(
        self,
        *,
        neighbor_skips: Sequence[int] = (),
        neighbor_head_dim: int | None = None,
        separate_neighbor_encoder: bool = False,
        neighbor_fine_skips: Sequence[int] = (),
        neighbor_fine_dim: int = 24,
        neighbor_free_heads: float = 0.0,
        neighbor_roles: bool = False,
        neighbor_prior_strength: float = 1.0,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.add_neighbor_attention(
            neighbor_skips,
            neighbor_head_dim,
            neighbor_fine_skips,
            neighbor_fine_dim,
            neighbor_free_heads,
            neighbor_roles,
            neighbor_prior_strength,
        )
        self.neighbor_encoder = _encoder_alone(UNet2DConditionModel(**base)) if separate_neighbor_encoder else None
        self._copy_encoder()

    def add_neighbor_attention(
        self,
        neighbor_skips: Sequence[int],
        neighbor_head_dim: int | None,
        neighbor_fine_skips: Sequence[int],
        neighbor_fine_dim: int,
        neighbor_free_heads: float,
        neighbor_roles: bool,
        neighbor_prior_strength: float,
    ) -> None:
        """Put the modules of this class beside those of the base.

        Args:
            neighbor_skips: this and all others as in the constructor.
            neighbor_head_dim: likewise.
            neighbor_fine_skips: likewise.
            neighbor_fine_dim: likewise.
            neighbor_free_heads: likewise.
            neighbor_roles: likewise.
            neighbor_prior_strength: likewise.

        Raises:
            ValueError: as in the constructor.
        """
        channels = [width for width, _ in self._skip_maps()]
        wrong = [index for index in (*neighbor_skips, *neighbor_fine_skips) if not 0 <= index < len(channels)]
        if wrong:
            raise ValueError(f"neighbor_skips: expected indices below {len(channels)}, got {wrong}")
        widths = {str(index): channels[index] for index in neighbor_skips} | {BOTTLENECK: channels[-1]}
        finest = str(min(neighbor_skips)) if neighbor_skips else BOTTLENECK
        fine = self._finer(neighbor_fine_skips, finest)
        self.neighbor_attention = nn.ModuleDict(
            {
                name: NeighborAttention(
                    width,
                    neighbor_head_dim or math.gcd(width, _HEAD_DIM),
                    free_heads=neighbor_free_heads,
                    roles=neighbor_roles,
                    fine=fine if name == finest else None,
                    fine_dim=neighbor_fine_dim,
                    prior_strength=neighbor_prior_strength,
                )
                for name, width in widths.items()
            }
        )

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
            prefix = f"neighbor_attention.{name}."
            missing = [key.removeprefix(prefix) for key in info["missing_keys"] if key.startswith(prefix)]
            if "to_out.weight" in missing:
                attention.reset_parameters()
            elif missing:
                attention.reset_extensions(missing)
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
        and_with: NeighborFeatures | None = None,
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
            and_with: also predict with these in their place: (2B, ...), `neighbors` first.
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
            return self.attended_maps(unet_split.encode(encoder, sample, timestep, conditions))
        encoded = self.encode(sample, timestep, conditions)
        output = self.decoded(encoded, neighbors, and_without=and_without, and_with=and_with)
        return UNet2DConditionOutput(sample=output) if return_dict else (output,)

    def encode(self, sample: Tensor, timestep: Tensor | float, conditions: Conditions) -> Encoded:
        """First half; see `Backbone`.

        Args:
            sample: (B, C, H, W) noisy input.
            timestep: () or (B,).
            conditions: of the B images.
        """
        return unet_split.encode(self, sample, timestep, conditions)

    def decode(self, encoded: Encoded) -> Tensor:
        """Second half, from `encoded` on; see `Backbone`."""
        return unet_split.decode(self, encoded)

    def joined(self, one: Encoded, other: Encoded) -> Encoded:
        """`one` and `other` of the same B images as a batch of 2B."""
        return unet_split.concatenate(one, other)

    def attended_maps(self, encoded: Encoded) -> dict[str, Tensor]:
        """Bottleneck and chosen skip maps of `encoded`, and the finer ones that go with them."""
        names = [name for key, attention in self.attentions() for name in (key, *attention.fine)]
        return {name: encoded.mid if name == BOTTLENECK else encoded.skips[int(name)] for name in names}

    def with_maps(self, encoded: Encoded, maps: Mapping[str, Tensor]) -> Encoded:
        """`encoded` with `maps` in the place of those of their names."""
        skips = [maps.get(str(number), skip) for number, skip in enumerate(encoded.skips)]
        return replace(encoded, skips=tuple(skips), mid=maps[BOTTLENECK])

    @property
    def size_multiple(self) -> int:
        """Of how many cells of the input the sides of a drawing must be multiples."""
        if not self.config.neighbor_fine_skips:
            return 1
        maps = self._skip_maps()
        skips = self.config.neighbor_skips
        return maps[min(skips) if skips else -1][1]

    def _skip_maps(self) -> list[tuple[int, int]]:
        """(channels, how many times smaller than the input) of every skip map; the last is the bottleneck's."""
        found, scale = [(self.conv_in.out_channels, 1)], 1
        for block, width in zip(self.down_blocks, self.config.block_out_channels, strict=True):
            found += [(width, scale)] * len(block.resnets)
            if block.downsamplers is not None:
                scale *= 2
                found.append((width, scale))
        return found

    def _finer(self, indices: Sequence[int], than: str) -> dict[str, tuple[int, int]]:
        """(channels, how many times finer than an attended map) of skip maps, by name."""
        maps = self._skip_maps()
        coarse = maps[-1 if than == BOTTLENECK else int(than)][1]
        wrong = [index for index in indices if maps[index][1] >= coarse]
        if wrong:
            raise ValueError(
                f"neighbor_fine_skips: expected maps finer than the finest of neighbor_skips, {than!r}, got {wrong}"
            )
        return {str(index): (maps[index][0], coarse // maps[index][1]) for index in indices}

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
