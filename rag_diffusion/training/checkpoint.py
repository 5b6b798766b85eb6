"""Checkpoints of a training run: safetensors and JSON, written beside and renamed, never pickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rag_diffusion.errors import ModelError
from rag_diffusion.files import atomic_dir

_STATE, _META = "state.safetensors", "meta.json"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def fingerprint(facts: Mapping[str, Any]) -> str:
    """Short hash of whatever must be the same for a run to be resumed."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    ema: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    meta: Mapping[str, Any],
) -> None:
    """Write weights, their average, AdamW's moments and `meta`; an older checkpoint stays until this one is whole."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in ema.items()}
    for name, parameter in model.named_parameters():
        state = optimizer.state.get(parameter, {})
        tensors |= {f"{moment}.{name}": state[moment] for moment in _MOMENTS if moment in state}
    with atomic_dir(folder) as beside:
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
            beside / _STATE,
        )
        (beside / _META).write_text(json.dumps(dict(meta)))


def load_checkpoint(
    folder: Path, model: nn.Module, ema: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Restore what `save_checkpoint` wrote, in place.

    Returns:
        Its `meta`, or None where there is no checkpoint.

    Raises:
        ModelError: the checkpoint is damaged or of another shape.
    """
    if not (folder / _META).exists():
        return None
    try:
        meta: dict[str, Any] = json.loads((folder / _META).read_text())
        tensors = load_file(folder / _STATE)
        model.load_state_dict({name: tensors[f"model.{name}"] for name in model.state_dict()})
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"{folder}: expected a checkpoint of this model, got: {str(error).splitlines()[0]}; "
            "remove the folder to start again"
        ) from None
    for name in ema:
        ema[name].copy_(tensors[f"ema.{name}"])
    for name, parameter in model.named_parameters():
        if f"exp_avg.{name}" in tensors:
            moments = {moment: tensors[f"{moment}.{name}"] for moment in _MOMENTS}
            optimizer.state[parameter] = {
                moment: value if moment == "step" else value.to(parameter.device) for moment, value in moments.items()
            }
    return meta
