"""Guidance without the part of it that only makes colours stronger.

What guidance changes in the x_0 estimate of an image has a part along that estimate and a part across it:

    d = x_0(guided) - x_0(full)         d_par = (<d, x_0(full)> / <x_0(full), x_0(full)>) x_0(full)
    x_0 <- x_0(full) + (d - d_par) + eta d_par

The part along it drives the contrast, and with a large scale the colours, out of what the model has learned. eta = 1 is
guidance as it is in the patent, eta = 0 leaves that part out.

Source: adaptive projected guidance without momentum and norm limit, Sadat, Hilliges, Weber 2024.
"""

from __future__ import annotations

from torch import Tensor

from rag_diffusion.models.parametrisation import from_clean, to_clean


def project(kind: str, sample: Tensor, full: Tensor, guided: Tensor, alpha_cumprod: Tensor, eta: float) -> Tensor:
    """The guided prediction with a share of its change along x_0.

    Args:
        kind: what is predicted, eps, v or x_0.
        sample: (B, D, h, w) x_t.
        full: (B, D, h, w) prediction under both conditions.
        guided: (B, D, h, w) prediction after guidance.
        alpha_cumprod: () abar_t.
        eta: share that stays; 1 gives `guided` back.

    Returns:
        (B, C, H, W), of the same kind as the predictions.
    """
    if eta == 1:
        return guided
    clean = to_clean(kind, sample, full, alpha_cumprod)
    change = to_clean(kind, sample, guided, alpha_cumprod) - clean
    each = (1, 2, 3)
    along = (change * clean).sum(each, keepdim=True) / clean.square().sum(each, keepdim=True).clamp(min=1e-12) * clean
    return from_clean(kind, sample, clean + change - (1 - eta) * along, alpha_cumprod)
