"""Muon (Jordan 2024), all matrices of one shape at a time.

    M <- mu M + (1 - mu) G;   W <- (1 - lr wd) W - lr 0.2 sqrt(max(rows, columns)) orthogonal((1 - mu) G + mu M)

orthogonal(X) by five Newton-Schulz iterations, X <- a X + (b A + c A A) X with A = X X^T.

It is `torch.optim.Muon` (which a test compares it with), but for two things. That one starts 27 small kernels a
matrix: half of a training step on a GPU; here matrices of one shape are iterated as one batch. And it iterates in
bfloat16 everywhere, which a CPU without instructions for it does a hundred times slower than float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rag_diffusion.device import autocast_dtype

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5
_MOMENTUM = 0.95
_LEAST_NORM = 1e-7
_LONG = 1.5  # times as long as it is wide: from here on the small products cost less


class Muon:
    """The optimizer of some matrices.

    Args:
        matrices: by name; updated in place.
        weight_decay: wd.

    Attributes:
        buffers: M by name, from the first step on.
    """

    def __init__(self, matrices: Mapping[str, Tensor], weight_decay: float) -> None:
        self.matrices, self.weight_decay = dict(matrices), weight_decay
        self.buffers: dict[str, Tensor] = {}

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor], learning_rate: float) -> None:
        """Update the matrices that have a gradient.

        Args:
            gradients: of each matrix, by name.
            learning_rate: lr.
        """
        for names in _by_shape(gradients):
            given = [gradients[name] for name in names]
            buffers = [self.buffers.setdefault(name, torch.zeros_like(self.matrices[name])) for name in names]
            torch._foreach_lerp_(buffers, given, 1 - _MOMENTUM)
            updates = orthogonal(torch.stack(torch._foreach_lerp(given, buffers, _MOMENTUM)))
            matrices = [self.matrices[name] for name in names]
            torch._foreach_mul_(matrices, 1 - learning_rate * self.weight_decay)
            rate = learning_rate * 0.2 * max(updates.shape[1:]) ** 0.5
            torch._foreach_add_(matrices, list(updates.to(matrices[0].dtype)), alpha=-rate)


def orthogonal(matrices: Tensor) -> Tensor:
    """About the nearest orthogonal matrix of each of `matrices` (n, rows, columns): singular values from 0.7 to 1.2.

    In bfloat16 where autocast would compute in it, else in float32.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x.to(autocast_dtype("auto", matrices.device) or torch.float32)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=_LEAST_NORM)
    long = x.shape[2] > _LONG * x.shape[1] and x.dtype is torch.float32
    x = _by_gram(x) if long else _directly(x)
    return x if wide else x.mT


def _directly(x: Tensor) -> Tensor:
    a, b, c = _COEFFICIENTS
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _by_gram(x: Tensor) -> Tensor:
    """The same with X only twice: X_5 = F_5 ... F_1 X, F = a + b A + c A A. Small eigenvalues of A need float32."""
    a, b, c = _COEFFICIENTS
    gram = x @ x.mT
    product = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).expand_as(gram)
    for _ in range(_STEPS):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor @ product
        gram = factor @ gram @ factor
    return product @ x


def _by_shape(matrices: Mapping[str, Tensor]) -> list[list[str]]:
    """Names of matrices of one shape and type together."""
    groups: dict[tuple[torch.Size, torch.dtype, torch.device], list[str]] = {}
    for name, matrix in matrices.items():
        groups.setdefault((matrix.shape, matrix.dtype, matrix.device), []).append(name)
    return list(groups.values())
