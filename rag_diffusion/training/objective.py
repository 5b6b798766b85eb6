"""The training objective: a squared error whose weight at each timestep is an explicit choice.

    x_t  = a x_0 + b eps,   a^2 = abar_t,   b^2 = 1 - abar_t,   SNR = a^2 / b^2
    loss = E[ w_t || x_0_hat - x_0 ||^2 ]            (the patent's time re-weighting)

A network may predict x_0, eps or v: at a given x_t these are linear in each other, so

    || eps_hat - eps ||^2 = SNR || x_0_hat - x_0 ||^2       || v_hat - v ||^2 = (1 + SNR) || x_0_hat - x_0 ||^2

and the same loss is had from each. `weighting` names w_t:

    constant   the plain error of `objective`: w = 1 for `sample`, SNR for `epsilon`, 1 + SNR for `v_prediction`
    snr        w = SNR: the constant weight on eps                              (Ho, Jain and Abbeel 2020)
    min_snr    w = min(SNR, g), g = 5: min(SNR, g) / SNR on eps,
               min(SNR, g) / (SNR + 1) on v                                     (Hang et al. 2023)
    p2         w = SNR / (k + SNR)^g, k = g = 1: 1 / (k + SNR)^g on eps         (Choi et al. 2022)

`objective` therefore matters where the weighting is constant.

Shapes: B batch, D channels of the U-Net's input, C >= D of its output, h/w its sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from rag_diffusion.models.parametrisation import target

Objective = Literal["v_prediction", "epsilon", "sample"]
Weighting = Literal["constant", "snr", "min_snr", "p2"]

MIN_SNR_GAMMA = 5.0
P2_K, P2_GAMMA = 1.0, 1.0
_LEAST_SNR = 1e-12  # of a schedule that ends at pure noise, where SNR is 0


@dataclass(frozen=True, kw_only=True)
class Noised:
    """What a network is shown, and what that was made from.

    Attributes:
        sample: (B, D, h, w) x_t.
        clean: (B, D, h, w) x_0.
        noise: (B, D, h, w) eps.
        timesteps: (B,) integers.
        alpha_cumprod: (B,) abar_t.
    """

    sample: Tensor
    clean: Tensor
    noise: Tensor
    timesteps: Tensor
    alpha_cumprod: Tensor


def add_noise(schedule: DDPMScheduler, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Noised:
    """Draw x_t.

    Args:
        schedule: variance schedule.
        clean: (B, D, h, w) x_0.
        noise: (B, D, h, w) eps.
        timesteps: (B,) integers.

    Returns:
        x_t with the noise, timesteps and abar_t that made it.
    """
    table: Tensor = schedule.alphas_cumprod
    signal = table[timesteps.to(table.device)].to(clean.device)
    sample = schedule.add_noise(clean, noise, timesteps)
    return Noised(sample=sample, clean=clean, noise=noise, timesteps=timesteps, alpha_cumprod=signal)


def weighted_loss(
    kind: str,
    prediction: Tensor,
    noised: Noised,
    objective: Objective = "v_prediction",
    weighting: Weighting = "constant",
) -> Tensor:
    """Weighted mean squared error of each image.

    Args:
        kind: what the network predicts: `v_prediction`, `epsilon` or `sample`.
        prediction: (B, C, h, w); channels past D, a learned variance, do not count.
        noised: what the network was shown.
        objective: the coordinates in which a constant weight is constant.
        weighting: w_t.

    Returns:
        (B,) float32.
    """
    wanted = target(kind, noised.clean, noised.noise, noised.alpha_cumprod).float()
    error = (prediction[:, : wanted.shape[1]].float() - wanted).square().flatten(1).mean(1)
    return error * prediction_weight(kind, noised.alpha_cumprod, objective, weighting)


def prediction_weight(kind: str, alpha_cumprod: Tensor, objective: Objective, weighting: Weighting) -> Tensor:
    """Weight on the squared error of a prediction: w_t over what its own error is worth.

    Args:
        kind: what the network predicts: `v_prediction`, `epsilon` or `sample`.
        alpha_cumprod: (B,) abar_t.
        objective: the coordinates in which a constant weight is constant.
        weighting: w_t.

    Returns:
        (B,) float32.
    """
    snr = signal_to_noise(alpha_cumprod)
    return (clean_weight(snr, objective, weighting) / _plain(snr, kind)).float()


def clean_weight(
    snr: Tensor,
    objective: Objective,
    weighting: Weighting,
    *,
    gamma: float = MIN_SNR_GAMMA,
    p2_k: float = P2_K,
    p2_gamma: float = P2_GAMMA,
) -> Tensor:
    """w_t, the weight on the squared error of x_0; the sources stand in the module's docstring.

    Args:
        snr: (B,) signal-to-noise ratios.
        objective: the coordinates in which a constant weight is constant.
        weighting: which w_t.
        gamma: of `min_snr`.
        p2_k: of `p2`.
        p2_gamma: of `p2`.

    Returns:
        (B,) of the type of `snr`.
    """
    if weighting == "snr":
        return snr
    if weighting == "min_snr":
        return snr.clamp(max=gamma)
    if weighting == "p2":
        return snr / (p2_k + snr) ** p2_gamma
    return _plain(snr, objective)


def signal_to_noise(alpha_cumprod: Tensor) -> Tensor:
    """SNR of abar_t, `alpha_cumprod` of any shape: float64, above zero."""
    signal = alpha_cumprod.double()
    return (signal / (1 - signal)).clamp(min=_LEAST_SNR)


def _plain(snr: Tensor, kind: str) -> Tensor:
    """The weight on x_0 that equals a weight of one on a prediction of that kind."""
    return {"sample": torch.ones_like(snr), "epsilon": snr, "v_prediction": 1 + snr}[kind]


def stratified_timesteps(batch_size: int, num_timesteps: int, generator: torch.Generator) -> Tensor:
    """Uniform timesteps, one from each of B equal strata, in random order: less variance than independent ones.

    Args:
        batch_size: B.
        num_timesteps: of the schedule.
        generator: of the draws; its device is that of the result.

    Returns:
        (B,) int64, 0 .. num_timesteps - 1.
    """
    device = generator.device
    offsets = torch.rand(batch_size, generator=generator, device=device)
    steps = ((torch.arange(batch_size, device=device) + offsets) / batch_size * num_timesteps).long()
    return steps[torch.randperm(batch_size, generator=generator, device=device)]
