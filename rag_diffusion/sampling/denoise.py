"""The denoising loop [0073-74] over any of diffusers' schedulers that fit the training schedule.

    x_T ~ N(0, I);   x_{t-1} = step(v_hat(x_t, t), x_t)

Whatever coordinates a scheduler keeps its sample in, the network sees x_t = a x_0 + b eps with a^2 + b^2 = 1 and
predicts v = a eps - b x_0, so a scheduler needs no code of its own here. Each one in `SCHEDULERS` passes a closed-form
test: with the ideal denoiser of a Gaussian it must end with that Gaussian.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import torch
from torch import Tensor

from rag_diffusion.errors import ConfigError
from rag_diffusion.models.generator import noise_schedule

SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
)
_LOWEST_LAMBDA = -5.1  # of DPM-Solver++ on a cosine schedule, whose log-SNR falls without bound

Predict = Callable[[int, Tensor, Tensor], Tensor]


def make_scheduler(name: str, num_inference_steps: int) -> Any:
    """A diffusers scheduler by class name, on the training schedule, ready for so many steps.

    Raises:
        ConfigError: it is none of `SCHEDULERS`.
    """
    if name not in SCHEDULERS:
        known = hasattr(getattr(diffusers, name, None), "add_noise")
        reason = "it has not passed the closed-form test" if known else "diffusers has no such one"
        raise ConfigError(f"sample.scheduler: expected one of {', '.join(SCHEDULERS)}, got {name!r}: {reason}")
    cls = getattr(diffusers, name)
    extra: dict[str, Any] = {"timestep_spacing": "trailing", "clip_sample": False}
    if name.startswith("DPMSolver"):
        extra["lambda_min_clipped"] = _LOWEST_LAMBDA
    accepted = inspect.signature(cls.__init__).parameters
    extra = {key: value for key, value in extra.items() if key in accepted}
    scheduler = cls.from_config(noise_schedule().config, **extra)
    scheduler.set_timesteps(num_inference_steps)
    return scheduler


def denoise(
    scheduler: Any,
    noise: Tensor,
    predict: Predict,
    *,
    generators: Sequence[torch.Generator] | None = None,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Run every step of a scheduler.

    Args:
        scheduler: of `make_scheduler`.
        noise: (B, D, h, w) standard normal.
        predict: of the step's number, x_t and t gives v_hat, all of the batch.
        generators: of the noise that an ancestral scheduler adds, one an image.
        on_step: gets the number of each finished step and the sample after it.

    Returns:
        (B, D, h, w) x_0.
    """
    sample: Tensor = noise * scheduler.init_noise_sigma
    ancestral = "generator" in inspect.signature(scheduler.step).parameters
    extra = {"generator": list(generators)} if generators and ancestral else {}
    for number, timestep in enumerate(scheduler.timesteps):
        seen = scheduler.scale_model_input(sample, timestep)
        sample = scheduler.step(predict(number, seen, timestep), timestep, sample, **extra).prev_sample
        if on_step is not None:
            on_step(number, sample)
    return sample
