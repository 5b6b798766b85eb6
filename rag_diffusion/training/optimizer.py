"""Muon for the matrices of the hidden layers and AdamW for the rest, or AdamW for all.

Muon (Jordan 2024) replaces the momentum of a matrix by the nearest orthogonal matrix: every direction moves alike, also
those in which few images pull, where Adam follows the many.

    M <- mu M + G;   W <- W - lr * 0.2 sqrt(max(rows, columns)) * orthogonal(G + mu M)

so the root mean square of an update is 0.2 lr, about that of AdamW. A convolution (out, in, h, w) counts as the matrix
(out, h * w * in). `torch.optim.Muon` takes matrices alone, so it is given views of the kernels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_OUTER = ("conv_in.", "conv_out.", "time_embedding.", "add_embedding.", "encoder_hid_proj.")  # not hidden layers
_WEIGHT_DECAY = 0.01
_MUON_RATE = 5.0  # of AdamW's learning rate
_BETAS = (0.9, 0.99)
_MOMENTS = ("exp_avg", "exp_avg_sq", "step", "momentum_buffer")


class Optimizer:
    """One interface over the optimizers of a network.

    Args:
        weights: parameters by their names in the network; updated in place.
        name: `adamw` or `muon`.
        learning_rate: of AdamW; Muon takes five times that.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], name: str, learning_rate: float) -> None:
        self._weights = dict(weights)
        chosen = {key: value for key, value in self._weights.items() if name == "muon" and _is_hidden(key, value)}
        self._matrices = {key: nn.Parameter(_matrix(value.detach(), value)) for key, value in chosen.items()}
        rest = [value for key, value in self._weights.items() if key not in chosen]
        self._adamw = torch.optim.AdamW(rest, lr=learning_rate, betas=_BETAS, weight_decay=_WEIGHT_DECAY)
        self._muon = (
            torch.optim.Muon(self._matrices.values(), weight_decay=_WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw")
            if chosen
            else None
        )

    def step(self, learning_rate: float) -> None:
        """Update every weight from its gradient, then forget the gradients."""
        _set_rate(self._adamw, learning_rate)
        self._adamw.step()
        if self._muon is not None:
            for key, matrix in self._matrices.items():
                gradient = self._weights[key].grad
                matrix.grad = None if gradient is None else _matrix(gradient, self._weights[key])
            _set_rate(self._muon, learning_rate * _MUON_RATE)
            self._muon.step()
        self.forget()

    def forget(self) -> None:
        """Drop the gradients without a step."""
        for weight in (*self._weights.values(), *self._matrices.values()):
            weight.grad = None

    def state(self) -> dict[str, Tensor]:
        """Moments by name: `exp_avg.NAME`, `momentum_buffer.NAME`, ..."""
        found: dict[str, Tensor] = {}
        for key in self._weights:
            state = self._state_of(key)
            found |= {f"{moment}.{key}": state[moment] for moment in _MOMENTS if moment in state}
        return found

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state` gave; `step` stays on the CPU, as torch wants it."""
        for key, weight in self._weights.items():
            for moment in _MOMENTS:
                if (value := tensors.get(f"{moment}.{key}")) is not None:
                    self._state_of(key)[moment] = (
                        value.clone() if moment == "step" else value.to(weight.device, copy=True)
                    )

    def _state_of(self, key: str) -> dict[str, Tensor]:
        found: dict[str, Tensor] = (
            self._muon.state[self._matrices[key]]
            if self._muon is not None and key in self._matrices
            else self._adamw.state[self._weights[key]]
        )
        return found


def _is_hidden(name: str, weight: Tensor) -> bool:
    return weight.ndim in (2, 4) and not name.startswith(_OUTER)


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
        group["lr"] = rate
