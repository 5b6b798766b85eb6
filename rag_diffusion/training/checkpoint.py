"""Checkpoints of a training run: safetensors and JSON, written beside and renamed, never pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rag_diffusion.errors import ModelError
from rag_diffusion.files import atomic_dir
from rag_diffusion.training.optimizer import Optimizer
from rag_diffusion.training.sharding import in_shares_of

_STATE, _META = "state.safetensors", "meta.json"


def save_checkpoint(
    folder: Path,
    weights: Mapping[str, Tensor],
    ema: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    meta: Mapping[str, Any],
) -> None:
    """Write a checkpoint; an older one stays until this one is whole.

    Args:
        folder: to make or replace.
        weights: by name.
        ema: their running average, by the same names.
        moments: `Optimizer.state`.
        meta: JSON-able facts to go on from: step, losses, ...
    """
    tensors = {f"model.{name}": value for name, value in weights.items()}
    tensors |= {f"ema.{name}": value for name, value in ema.items()}
    tensors |= moments
    with atomic_dir(folder) as beside:
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
            beside / _STATE,
        )
        (beside / _META).write_text(json.dumps(dict(meta)))


def load_checkpoint(
    folder: Path, weights: Mapping[str, Tensor], ema: Mapping[str, Tensor], optimizer: Optimizer
) -> dict[str, Any] | None:
    """Restore what `save_checkpoint` wrote, in place.

    Args:
        folder: of the checkpoint.
        weights: by name; overwritten.
        ema: their running average; overwritten.
        optimizer: gets its moments back.

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
        saved = {name: (tensors[f"model.{name}"], tensors[f"ema.{name}"]) for name in weights}
        with torch.no_grad():
            for name, (weight, average) in saved.items():
                if weight.shape != weights[name].shape:
                    raise ValueError(f"{name} of shape {tuple(weight.shape)}, not {tuple(weights[name].shape)}")
                weights[name].copy_(in_shares_of(weights[name], weight))
                ema[name].copy_(in_shares_of(ema[name], average))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"{folder}: expected a checkpoint of this model, got: {str(error).splitlines()[0]}; "
            "remove the folder to start again"
        ) from None
    optimizer.load_state(tensors)
    return meta
