"""Networks: `RetrievalUNet`, the parts around it, and `load_generator` over all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rag_diffusion.models.load import load_generator
    from rag_diffusion.models.neighbor_batch import Neighbor
    from rag_diffusion.models.unet import RetrievalUNet

__all__ = ["Neighbor", "RetrievalUNet", "load_generator"]
_HOMES = {"Neighbor": "neighbor_batch", "RetrievalUNet": "unet", "load_generator": "load"}


def __getattr__(name: str) -> Any:  # the dual encoder lives here as well, and needs no diffusers
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
