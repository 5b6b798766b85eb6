"""Muon for the matrices of the hidden layers and AdamW for the rest, or AdamW for all.

Muon (see `training.muon`) replaces the momentum of a matrix by the nearest orthogonal matrix: every direction moves
alike, also those in which few images pull, where Adam follows the many. Its updates have the size of AdamW's. A
convolution (out, in, h, w) counts as the matrix (out, h * w * in), a view of the kernel.

The widths of the neighbor attention's local prior and its other single logits have a rate of their own, ten times
AdamW's where none is given: with the plain one they hardly leave where they start. Each step of Adam moves a width's
logarithm by about that rate, so at 0.01 a hundred steps can widen or narrow a prior e-fold.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rag_diffusion.training.muon import Muon
from rag_diffusion.training.sharding import in_shares_of

_FAST = ("log_sigma", "null_logit", "role.logit")  # single numbers in front of a softmax, which have far to go
_FAST_RATE = 10.0  # of AdamW's learning rate, where none is given
_EMBEDDINGS = ("role.",)  # of the neighbor attention
_OUTER = ("conv_in.", "conv_out.", "time_embedding.", "add_embedding.", "encoder_hid_proj.")  # not hidden layers
_WEIGHT_DECAY = 0.01
_MUON_RATE = 5.0  # of AdamW's learning rate
_BETAS = (0.9, 0.99)
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Optimizer:
    """One interface over the optimizers of a network.

    Args:
        weights: parameters by their names in the network; updated in place.
        name: `adamw` or `muon`.
        learning_rate: of AdamW; Muon takes five times that.
        prior_learning_rate: of the local prior's widths and the other single logits, where the rest has
            `learning_rate`; both follow the same warm-up and decay. None: ten times that.
    """

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        name: str,
        learning_rate: float,
        prior_learning_rate: float | None = None,
    ) -> None:
        self._weights = dict(weights)
        chosen = {key: value for key, value in self._weights.items() if name == "muon" and _is_hidden(key, value)}
        self._muon = Muon({key: _matrix(value.detach(), value) for key, value in chosen.items()}, _WEIGHT_DECAY)
        rest = {key: value for key, value in self._weights.items() if key not in chosen}
        fast = [value for key, value in rest.items() if key.endswith(_FAST)]
        slow = [value for key, value in rest.items() if not key.endswith(_FAST)]
        fast_rate = _FAST_RATE if prior_learning_rate is None else prior_learning_rate / learning_rate
        groups = [
            {"params": slow, "weight_decay": _WEIGHT_DECAY, "factor": 1.0},
            {"params": fast, "weight_decay": 0.0, "factor": fast_rate},
        ]
        self._adamw = torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate, betas=_BETAS)

    def step(self, learning_rate: float) -> None:
        """Update every weight from its gradient by `learning_rate`, that of AdamW, then forget the gradients."""
        _set_rate(self._adamw, learning_rate)
        self._adamw.step()
        given = {key: self._weights[key].grad for key in self._muon.matrices}
        gradients = {key: _matrix(value, self._weights[key]) for key, value in given.items() if value is not None}
        self._muon.step(gradients, learning_rate * _MUON_RATE)
        self.forget()

    def forget(self) -> None:
        """Drop the gradients without a step."""
        for weight in self._weights.values():
            weight.grad = None

    def state(self) -> dict[str, Tensor]:
        """Moments by name: `exp_avg.NAME`, `momentum_buffer.NAME`, ..."""
        moments = {f"momentum_buffer.{key}": value for key, value in self._muon.buffers.items()}
        for key, weight in self._weights.items():
            state = self._adamw.state.get(weight, {})
            moments |= {f"{moment}.{key}": state[moment] for moment in _MOMENTS if moment in state}
        return moments

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore `tensors`, what `state` gave; `step` stays on the CPU, as torch wants it."""
        for key, weight in self._weights.items():
            if key in self._muon.matrices:
                if (value := tensors.get(f"momentum_buffer.{key}")) is not None:
                    self._muon.buffers[key] = value.to(weight.device, copy=True)
                continue
            for moment in _MOMENTS:
                if (value := tensors.get(f"{moment}.{key}")) is not None:
                    self._adamw.state[weight][moment] = (
                        value.clone() if moment == "step" else in_shares_of(weight, value)
                    )


def _is_hidden(name: str, weight: Tensor) -> bool:
    embedding = any(f".{part}" in name for part in _EMBEDDINGS)
    return weight.ndim in (2, 4) and not name.startswith(_OUTER) and not embedding


def _matrix(values: Tensor, weight: Tensor) -> Tensor:
    """Kernel or gradient as the matrix (out, h * w * in) where `weight` is channels_last, else (out, in * h * w).

    A view for the weight itself, so that an update of the matrix is one of the weight.
    """
    if values.ndim == 2:
        return values
    last = weight.is_contiguous(memory_format=torch.channels_last)
    return values.permute(0, 2, 3, 1).flatten(1) if last else values.flatten(1)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("factor", 1.0)
