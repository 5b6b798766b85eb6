"""Where tensors live."""

from __future__ import annotations

import torch

from rag_diffusion.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """`auto`, `cpu` or `cuda` as a torch device.

    Raises:
        ConfigError: cuda was asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: expected a CUDA GPU, found none; set `device: cpu` or `device: auto` in params.yaml")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
