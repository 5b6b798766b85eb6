"""What a network predicts, eps, v or x_0, and how each follows from another at a given x_t.

    x_t = a x_0 + b eps      a = sqrt(abar_t), b = sqrt(1 - abar_t)
    v   = a eps - b x_0      so   x_0 = a x_t - b v,   eps = b x_t + a v

All three are linear in each other at a given x_t, so guidance may be applied to any of them. Names are those of
diffusers' `prediction_type`.

Shapes: B batch, D channels, h/w sample.
"""

from __future__ import annotations

from torch import Tensor

PREDICTIONS = ("epsilon", "v_prediction", "sample")


def target(kind: str, clean: Tensor, noise: Tensor, alpha_cumprod: Tensor) -> Tensor:
    """What a perfect network of that kind says, (B, D, h, w).

    Args:
        kind: one of `PREDICTIONS`.
        clean: (B, D, h, w) x_0.
        noise: (B, D, h, w) eps.
        alpha_cumprod: () or (B,) abar_t.
    """
    if kind == "sample":
        return clean
    if kind == "epsilon":
        return noise
    a, b = factors(alpha_cumprod)
    return a * noise - b * clean


def to_clean(kind: str, sample: Tensor, prediction: Tensor, alpha_cumprod: Tensor) -> Tensor:
    """x_0 out of a prediction at x_t.

    Args:
        kind: of the prediction: `sample`, `epsilon` or `v_prediction`.
        sample: (B, D, h, w) x_t.
        prediction: of the same shape.
        alpha_cumprod: (B,) or () abar_t.
    """
    if kind == "sample":
        return prediction
    a, b = factors(alpha_cumprod)
    return (sample - b * prediction) / a if kind == "epsilon" else a * sample - b * prediction


def from_clean(kind: str, sample: Tensor, clean: Tensor, alpha_cumprod: Tensor) -> Tensor:
    """The prediction at x_t that means a certain x_0; the inverse of `to_clean`.

    Args:
        kind: of the prediction: `sample`, `epsilon` or `v_prediction`.
        sample: (B, D, h, w) x_t.
        clean: (B, D, h, w) x_0.
        alpha_cumprod: (B,) or () abar_t.
    """
    if kind == "sample":
        return clean
    a, b = factors(alpha_cumprod)
    return (sample - a * clean) / b if kind == "epsilon" else (a * sample - clean) / b


def factors(alpha_cumprod: Tensor) -> tuple[Tensor, Tensor]:
    """The factors a and b of `alpha_cumprod`, (B,) or (): each (B, 1, 1, 1) or (1, 1, 1, 1)."""
    signal = alpha_cumprod.reshape(-1, 1, 1, 1)
    return signal.sqrt(), (1 - signal).sqrt()
