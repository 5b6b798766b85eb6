"""The forward pass of diffusers' `UNet2DConditionModel` in two halves, with a seam after the bottleneck.

    decode(unet, encode(unet, x_t, t, c)) == unet(x_t, t, c)      bit for bit, for every condition diffusers knows

Between the halves lie the skip maps and the bottleneck: the patent's feature map f(x_t, c_p, t) [0060-61]. Both halves
follow `UNet2DConditionModel.forward` of diffusers 0.42 line by line, so that whatever it does to its maps (ControlNet,
T2I-Adapter, GLIGEN, FreeU, LoRA, masks) is done here as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.utils._pytree import tree_map

MASKED = -10000.0  # diffusers' logit of a token that must not be seen


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a U-Net is told besides the sample and the timestep; names as in diffusers, B batch, L tokens.

    Attributes:
        text: (B, L, D) encoder_hidden_states.
        text_mask: (B, L) encoder_attention_mask, one where there is a token.
        down_residuals, mid_residual: ControlNet's, added to skip maps and bottleneck.
        intrablock_residuals: T2I-Adapter's, added within the encoder; the caller's list is left as it is.
    """

    text: Tensor
    text_mask: Tensor | None = None
    attention_mask: Tensor | None = None
    class_labels: Tensor | None = None
    timestep_cond: Tensor | None = None
    added: Mapping[str, Any] | None = None
    cross_attention_kwargs: Mapping[str, Any] | None = None
    down_residuals: Sequence[Tensor] | None = None
    mid_residual: Tensor | None = None
    intrablock_residuals: Sequence[Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """The seam.

    Attributes:
        skips: the encoder's maps, (B, C_i, H_i, W_i), first the output of `conv_in`.
        mid: the bottleneck.
        embedding: (B, E) of time, class and added conditions.
        attention: keywords of every block with text attention.
        size: (H, W) of the sample.
    """

    skips: tuple[Tensor, ...]
    mid: Tensor
    embedding: Tensor
    attention: Mapping[str, Any]
    size: tuple[int, int]


def encode(unet: UNet2DConditionModel, sample: Tensor, timestep: Tensor | float, conditions: Conditions) -> Encoded:
    """First half: embeddings, encoder, bottleneck.

    Args:
        unet: any of diffusers' kind.
        sample: (B, C, H, W).
        timestep: () or (B,).
        conditions: of the B images.

    Returns:
        Skip maps, bottleneck map and embeddings, as `decode` takes them.
    """
    size = (sample.shape[-2], sample.shape[-1])
    biases = [_as_bias(mask, sample.dtype) for mask in (conditions.attention_mask, conditions.text_mask)]
    if unet.config.center_input_sample:
        sample = 2 * sample - 1.0
    embedding, sample = _embed(unet, sample, timestep, conditions)
    text = unet.process_encoder_hidden_states(
        encoder_hidden_states=conditions.text, added_cond_kwargs=conditions.added or {}
    )
    sample = unet.conv_in(sample)
    attention = {
        "encoder_hidden_states": text,
        "attention_mask": biases[0],
        "encoder_attention_mask": biases[1],
        "cross_attention_kwargs": _with_gligen(unet, conditions.cross_attention_kwargs),
    }
    inner, control = _residuals(conditions)
    skips: tuple[Tensor, ...] = (sample,)
    for block in unet.down_blocks:
        if getattr(block, "has_cross_attention", False):
            added = {"additional_residuals": inner.pop(0)} if inner else {}
            sample, maps = block(hidden_states=sample, temb=embedding, **attention, **added)
        else:
            sample, maps = block(hidden_states=sample, temb=embedding)
            if inner:
                sample += inner.pop(0)  # in place, as in diffusers: the last skip map is the same tensor
        skips += maps
    if control:
        skips = tuple(skip + residual for skip, residual in zip(skips, control, strict=True))
    if unet.mid_block is not None:
        crossed = getattr(unet.mid_block, "has_cross_attention", False)
        sample = unet.mid_block(sample, embedding, **(attention if crossed else {}))
        if inner and sample.shape == inner[0].shape:
            sample += inner.pop(0)
    if control and conditions.mid_residual is not None:
        sample = sample + conditions.mid_residual
    return Encoded(skips=skips, mid=sample, embedding=embedding, attention=attention, size=size)


def decode(unet: UNet2DConditionModel, encoded: Encoded) -> Tensor:
    """Second half of `unet`, from `encoded` on: decoder and output convolution, (B, C_out, H, W)."""
    forced = any(side % 2**unet.num_upsamplers for side in encoded.size)
    sample, skips, upsample_size = encoded.mid, encoded.skips, None
    for number, block in enumerate(unet.up_blocks):
        count = len(block.resnets)
        here, skips = skips[-count:], skips[:-count]
        if forced and number < len(unet.up_blocks) - 1:
            upsample_size = skips[-1].shape[2:]
        sample = block(
            hidden_states=sample,
            temb=encoded.embedding,
            res_hidden_states_tuple=here,
            upsample_size=upsample_size,
            **(encoded.attention if getattr(block, "has_cross_attention", False) else {}),
        )
    if unet.conv_norm_out:
        sample = unet.conv_act(unet.conv_norm_out(sample))
    output: Tensor = unet.conv_out(sample)
    return output


def concatenate(one: Encoded, other: Encoded) -> Encoded:
    """Two versions of the same B images, `one` and `other`, which differ in their maps alone, as a batch of 2B."""
    twice = {key: value if key == "cross_attention_kwargs" else _twice(value) for key, value in one.attention.items()}
    extra = one.attention["cross_attention_kwargs"]
    if extra and "gligen" in extra:
        twice["cross_attention_kwargs"] = {**extra, "gligen": _twice(extra["gligen"])}
    return replace(
        one,
        skips=tuple(torch.cat(pair) for pair in zip(one.skips, other.skips, strict=True)),
        mid=torch.cat([one.mid, other.mid]),
        embedding=_twice(one.embedding),
        attention=twice,
    )


def _embed(
    unet: UNet2DConditionModel, sample: Tensor, timestep: Tensor | float, conditions: Conditions
) -> tuple[Tensor, Tensor]:
    """Embedding of time, class and added conditions; the sample, with a hint channel where the model wants one."""
    embedding = unet.time_embedding(unet.get_time_embed(sample=sample, timestep=timestep), conditions.timestep_cond)
    labels = unet.get_class_embed(sample=sample, class_labels=conditions.class_labels)
    if labels is not None:
        concat = unet.config.class_embeddings_concat
        embedding = torch.cat([embedding, labels], dim=-1) if concat else embedding + labels
    added = unet.get_aug_embed(
        emb=embedding, encoder_hidden_states=conditions.text, added_cond_kwargs=conditions.added or {}
    )
    if unet.config.addition_embed_type == "image_hint":
        added, hint = added
        sample = torch.cat([sample, hint], dim=1)
    embedding = embedding if added is None else embedding + added
    return (embedding if unet.time_embed_act is None else unet.time_embed_act(embedding)), sample


def _residuals(conditions: Conditions) -> tuple[list[Tensor], list[Tensor]]:
    """T2I-Adapter's and ControlNet's residuals; without one for the bottleneck, the down residuals are the former."""
    down, inner = conditions.down_residuals, conditions.intrablock_residuals
    if down is not None and conditions.mid_residual is not None:
        return list(inner or ()), list(down)
    return list(inner if inner is not None else down or ()), []


def _with_gligen(unet: UNet2DConditionModel, extra: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if extra is None or extra.get("gligen") is None:
        return None if extra is None else dict(extra)
    return {**extra, "gligen": {"objs": unet.position_net(**extra["gligen"])}}


def _as_bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """(B, L) one where to look -> (B, 1, L) added to logits."""
    return None if mask is None else ((1 - mask.to(dtype)) * MASKED).unsqueeze(1)


def _twice(values: Any) -> Any:
    return tree_map(lambda value: torch.cat([value, value]) if isinstance(value, Tensor) else value, values)
