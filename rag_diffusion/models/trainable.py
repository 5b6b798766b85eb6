"""Which parameters of a RetrievalUNet are trained: all, the neighbor attention alone, or more beside it."""

from __future__ import annotations

from typing import Literal, cast, get_args

from torch import nn

from rag_diffusion.errors import ConfigError
from rag_diffusion.models.unet import RetrievalUNet

Parts = Literal["all", "neighbors", "lora", "decoder"]
_ADAPTED = ("to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj")  # of the base's own attention
_OWN = ("neighbor_attention.", "neighbor_encoder.")
_FINE_LEVELS = 3  # of the decoder, counted from its end: 16 px and finer at 64


def train_parts(unet: RetrievalUNet, parts: Parts, lora_rank: int = 16) -> dict[str, nn.Parameter]:
    """Freeze everything else, in place.

    Args:
        unet: the network.
        parts: `all`; `neighbors` freezes the base, which then equals the untouched checkpoint wherever there are no
            neighbors; `lora` adds low-rank adapters to the base's attention through peft and trains them and the
            neighbor attention; `decoder` trains the decoder's finest levels and the neighbor attention.
        lora_rank: of the adapters.

    Returns:
        The parameters that are trained, by name.

    Raises:
        ConfigError: there is no such choice, or the base has no attention to adapt.
    """
    if parts not in get_args(Parts):
        raise ConfigError(f"trainable parts: expected one of {', '.join(get_args(Parts))}, got {parts!r}")
    unet.requires_grad_(parts == "all")
    if parts == "lora":
        _add_adapters(unet, lora_rank)
    trained = (*_OWN, *(_fine_decoder(unet) if parts == "decoder" else ()))
    for name, parameter in unet.named_parameters():
        if name.startswith(trained):
            parameter.requires_grad_(True)
    return {name: parameter for name, parameter in unet.named_parameters() if parameter.requires_grad}


def _fine_decoder(unet: RetrievalUNet) -> tuple[str, ...]:
    levels = len(unet.config.block_out_channels)
    blocks = [f"up_blocks.{number}." for number in range(max(0, levels - _FINE_LEVELS), levels)]
    return (*blocks, "conv_norm_out.", "conv_out.")


def _add_adapters(unet: RetrievalUNet, rank: int) -> None:
    from peft import LoraConfig

    names = [
        name
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(_ADAPTED) and not name.startswith(_OWN)
    ]
    if not names:
        raise ConfigError("trainable parts: expected a base with attention for `lora`, found none; use `neighbors`")
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=names, init_lora_weights="gaussian")
    cast(nn.Module, unet).add_adapter(config)  # type: ignore[operator]
