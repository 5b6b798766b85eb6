"""The training objective: v-prediction at a uniformly drawn timestep.

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps;    v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0
    loss = E[ || v_hat(x_t, t, c) - v ||^2 ]  =  E[ (1 + SNR(t)) || x0_hat - x_0 ||^2 ],   SNR = abar_t / (1 - abar_t)

so a constant weight on v is the weight 1 + SNR on x_0 (Salimans and Ho 2022; the patent's w_t).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Noised:
    """x_t (B, C, H, W), its timesteps (B,), and the target v."""

    sample: Tensor
    timesteps: Tensor
    target: Tensor


def add_noise(schedule: DDPMScheduler, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Noised:
    """Draw x_t and the v it should give.

    Args:
        schedule: variance schedule.
        clean: (B, C, H, W) x_0.
        noise: (B, C, H, W) eps.
        timesteps: (B,) integers.
    """
    sample = schedule.add_noise(clean, noise, timesteps)
    return Noised(sample=sample, timesteps=timesteps, target=schedule.get_velocity(clean, noise, timesteps))


def velocity_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of v of each image, (B,), in float32."""
    return (prediction.float() - target.float()).square().flatten(1).mean(1)


def stratified_timesteps(batch_size: int, num_timesteps: int, generator: torch.Generator) -> Tensor:
    """(B,) uniform timesteps, one from each of B equal strata, in random order: less variance than independent ones."""
    offsets = torch.rand(batch_size, generator=generator)
    steps = ((torch.arange(batch_size) + offsets) / batch_size * num_timesteps).long()
    return steps[torch.randperm(batch_size, generator=generator)]
