"""Preconditioning: what is known about v before the network is asked (Karras et al. 2022, eq. 7, for v and by channel).

With x_t = a x_0 + b eps, v = a eps - b x_0, a^2 + b^2 = 1, and a channel of x_0 with mean 0 and deviation s,

    var(x_t) = a^2 s^2 + b^2
    best linear guess of v    a b (1 - s^2) / var(x_t) * x_t
    what it leaves            standard deviation s / sqrt(var(x_t))

so   v_hat = a b (1 - s^2) / var * x_t  +  s / sqrt(var) * F(x_t / sqrt(var), t, c).

The network F sees and predicts numbers of unit variance at every noise level and in every channel. F = 0 is the Wiener
filter; with s = 1 everywhere v_hat = F: plain v-prediction. The loss stays the one of `training.objective`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Precondition:
    """Factors for a batch, each (B, D, 1, 1): of the network's input, of x_t in v_hat, of the network's output."""

    scale_in: Tensor
    skip: Tensor
    scale_out: Tensor

    @classmethod
    def at(cls, alpha_cumprod: Tensor, std: Tensor) -> Precondition:
        """Factors at a noise level.

        Args:
            alpha_cumprod: () or (B,) a^2.
            std: (D,) s, or (B, D) where it differs by image.
        """
        signal = alpha_cumprod.reshape(-1, 1, 1, 1)
        s = std[..., None, None]
        variance = signal * s.square() + (1 - signal)
        return cls(
            scale_in=variance.rsqrt(),
            skip=(signal * (1 - signal)).sqrt() * (1 - s.square()) / variance,
            scale_out=s * variance.rsqrt(),
        )

    def velocity(self, sample: Tensor, output: Tensor) -> Tensor:
        """v_hat, (B, D, h, w) float32, of x_t `sample` and the network's `output`, both of the same shape."""
        return self.skip * sample + self.scale_out * output.float()
