"""A U-Net of diffusers with neighbor attention beside it, and back, over the same weights: none of them is copied."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel

from rag_diffusion.models.unet import DEFAULTS, RetrievalUNet

_OWN_MODULES = ("neighbor_attention", "neighbor_encoder")


def with_neighbors(unet: UNet2DConditionModel, **own: Any) -> RetrievalUNet:
    """A plain U-Net with neighbor attention beside it.

    Where its configuration says that it was read from the folder of a RetrievalUNet, the neighbor attention is that
    one's; otherwise it starts as zero.

    Args:
        unet: any `UNet2DConditionModel`, adapters and all; it stays what it is. A RetrievalUNet is given back.
        **own: arguments of `RetrievalUNet`.

    Raises:
        ValueError: neighbors are to have an encoder of their own, which is a copy, or there are hooks on the U-Net.
    """
    if isinstance(unet, RetrievalUNet):
        return unet
    told = {name: unet.config[name] for name in DEFAULTS if name in unet.config}
    settings = DEFAULTS | told | own
    if settings.pop("separate_neighbor_encoder"):
        raise ValueError("separate_neighbor_encoder: expected a U-Net that RetrievalUNet.from_pretrained has read")
    if hasattr(unet, "_hf_hook"):
        raise ValueError("from_pipe: expected a U-Net without offload hooks; call remove_all_hooks() first")
    extended: RetrievalUNet = _share(unet, RetrievalUNet)
    extended.add_neighbor_attention(**settings)
    extended.neighbor_encoder = None
    extended.register_to_config(**settings, separate_neighbor_encoder=False)
    folder = Path(str(unet.config.get("_name_or_path", "")))
    if told and not own and (folder / "config.json").is_file():
        saved = RetrievalUNet.from_pretrained(folder, torch_dtype=unet.dtype)
        extended.neighbor_attention.load_state_dict(saved.neighbor_attention.state_dict())
    extended.neighbor_attention.to(unet.device, unet.dtype)
    extended.train(unet.training)
    return extended


def without_neighbors(unet: RetrievalUNet) -> UNet2DConditionModel:
    """The base of `unet`, as diffusers' own pipelines want it."""
    base = _share(unet, UNet2DConditionModel)
    for name in _OWN_MODULES:
        base._modules.pop(name, None)
    return base


def _share(unet: UNet2DConditionModel, cls: type[Any]) -> Any:
    """An object of another class with the modules, parameters and settings of a U-Net, not copies of them."""
    shared = copy.copy(unet)
    shared.__class__ = cls
    shared._modules = dict(unet._modules)
    return shared
