"""The denoising loop [0073-74] over any of diffusers' schedulers that fit the training schedule.

    x_T ~ N(0, I);   x_{t-1} = step(v_hat(x_t, t), x_t)

Whatever coordinates a scheduler keeps its sample in, the network sees x_t = a x_0 + b eps with a^2 + b^2 = 1 and
predicts eps, v or x_0 of it: no scheduler needs code of its own here. Each one in `SCHEDULERS` passes a closed-form
test: with the ideal denoiser of a Gaussian it must end with that Gaussian.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from rag_diffusion.errors import ConfigError
from rag_diffusion.sampling.inpainting import Kept

SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
)
DEFAULT_SCHEDULER = "DDIMScheduler"
_OF_CONSISTENCY = (
    "its steps take the prediction for the end of the way, which that of a network distilled to consistency alone is"
)
_WHY_NOT = {"LCMScheduler": _OF_CONSISTENCY, "TCDScheduler": _OF_CONSISTENCY}
COSINE = "squaredcos_cap_v2"
_MOST_GAP = 0.05  # of a step
_LOWEST_LAMBDA = -5.1  # of DPM-Solver++ on a cosine schedule, whose log-SNR falls without bound

Predict = Callable[[int, Tensor, Tensor], Tensor]


def check_scheduler(name: str) -> str:
    """Check a scheduler's class `name`.

    Returns:
        The same name.

    Raises:
        ConfigError: it is none of `SCHEDULERS`, with the reason.
    """
    if name not in SCHEDULERS:
        known = hasattr(getattr(diffusers, name, None), "add_noise")
        reason = "it has not passed the closed-form test" if known else "diffusers has no such one"
        reason = _WHY_NOT.get(name, reason)
        raise ConfigError(f"scheduler: expected one of {', '.join(SCHEDULERS)}, got {name!r}: {reason}")
    return name


def make_scheduler(name: str, schedule: DDPMScheduler) -> Any:
    """A diffusers scheduler by class name, on the variance schedule of training.

    What a class does not know stays in its configuration, so that `Other.from_config(scheduler.config)` keeps it.

    Args:
        name: one of `SCHEDULERS`.
        schedule: betas and prediction type of the network.

    Raises:
        ConfigError: it is none of `SCHEDULERS`.
    """
    extra: dict[str, Any] = {"timestep_spacing": "trailing", "clip_sample": False, "thresholding": False}
    if schedule.config.beta_schedule == COSINE:
        extra["lambda_min_clipped"] = _LOWEST_LAMBDA
    config = dict(schedule.config) | extra
    config["_use_default_values"] = [key for key in config.get("_use_default_values", []) if key not in extra]
    return getattr(diffusers, check_scheduler(name)).from_config(config)


def check_fits(scheduler: Any, schedule: DDPMScheduler) -> None:
    """Refuse a scheduler with which the network would be asked of what it was not trained for.

    Args:
        scheduler: any of diffusers, its timesteps set.
        schedule: betas and prediction type of the network.

    Raises:
        ConfigError: it is none of `SCHEDULERS`, or set up in a way that does not fit.
    """
    name = check_scheduler(type(scheduler).__name__)
    config = scheduler.config
    fault = None
    if config.prediction_type != schedule.config.prediction_type:
        fault = f"a network that predicts {config.prediction_type}, not {schedule.config.prediction_type}"
    elif not torch.allclose(scheduler.alphas_cumprod.cpu(), schedule.alphas_cumprod.cpu(), rtol=1e-3, atol=1e-9):
        fault = "other betas than the network was trained with"
    elif any(config.get(key) for key in ("clip_sample", "thresholding")):
        fault = "thresholding of its own; the pipeline's `thresholding` knows what pixels are"
    elif any(config.get(f"use_{kind}_sigmas") for kind in ("karras", "exponential", "beta", "flow")):
        fault = "noise levels between the timesteps that the network knows"
    elif name.startswith("DPMSolver") and config.beta_schedule == COSINE and config.lambda_min_clipped < -10:
        fault = "no lambda_min_clipped on a cosine schedule, whose log-SNR falls without bound"
    elif (gap := _gap(scheduler)) > _MOST_GAP:
        count = scheduler.num_inference_steps
        fault = f"{count} steps: it would land {gap:.0%} of a step beside the next timestep; use a divisor of 1000"
    elif bool((scheduler.timesteps != scheduler.timesteps.round()).any()):
        fault = "timesteps that are no integers"
    if fault is not None:
        raise ConfigError(
            f"scheduler: expected one made by `{name}.from_config(pipeline.scheduler.config)`, got one with {fault}"
        )


def set_timesteps(
    scheduler: Any,
    count: int,
    device: torch.device,
    timesteps: Sequence[int] | None = None,
    sigmas: Sequence[float] | None = None,
) -> None:
    """Set the timesteps of a scheduler, in place.

    Args:
        scheduler: of diffusers.
        count: T, where neither of the others is given.
        device: where they are to live.
        timesteps: those of the network's calls, falling; None spaces them.
        sigmas: noise levels in their place.

    Raises:
        ConfigError: the scheduler takes none, or not these.
    """
    given = {"timesteps": timesteps, "sigmas": sigmas}
    chosen = {name: list(values) for name, values in given.items() if values is not None}
    if not chosen:
        scheduler.set_timesteps(count, device=device)
        return
    name = " and ".join(chosen)
    takes = [
        known for known in SCHEDULERS
        if set(chosen) <= set(inspect.signature(getattr(diffusers, known).set_timesteps).parameters)
    ]  # fmt: skip
    if len(chosen) > 1 or type(scheduler).__name__ not in takes:
        wanted = "one of the two" if len(chosen) > 1 else f"a scheduler that takes them ({', '.join(takes)})"
        raise ConfigError(f"{name}: expected {wanted}, got {type(scheduler).__name__}; give num_inference_steps alone")
    try:
        scheduler.set_timesteps(**chosen, device=device)
    except ValueError as error:
        raise ConfigError(f"{name}: expected what {type(scheduler).__name__} takes, got: {error}") from None


def _gap(scheduler: Any) -> float:
    """DDIM and DDPM step down by a whole number of timesteps, also where the next one lies a fraction further."""
    spaced = type(scheduler).__name__ in ("DDIMScheduler", "DDPMScheduler")
    if not spaced or getattr(scheduler, "custom_timesteps", False):
        return 0.0
    total, count = scheduler.config.num_train_timesteps, scheduler.num_inference_steps
    return float(1 - (total // count) * count / total)


def solver_steps(scheduler: Any) -> list[int]:
    """The solver's step, by number, of each call of the network by `scheduler`, timesteps set; Heun has two calls."""
    count = len(scheduler.timesteps)
    return [number // 2 if type(scheduler).__name__.startswith("Heun") else number for number in range(count)]


def takes_variance(scheduler: Any) -> bool:
    """Whether `scheduler` takes the learned variance beside the prediction (DPM-Solver++ only to leave it out)."""
    has = "variance_type" in inspect.signature(type(scheduler).__init__).parameters
    return has and str(scheduler.config.variance_type).startswith("learned")


def start_at(scheduler: Any, strength: float) -> int:
    """The first call of the network for a picture that is noised to a part of the way (SDEdit; diffusers' img2img).

    Args:
        scheduler: its timesteps set; told where it begins.
        strength: share of the solver's steps that are left, in (0, 1]; 1 starts from noise.

    Raises:
        ValueError: the share is outside of that, or leaves no step.
    """
    steps = solver_steps(scheduler)
    count = steps[-1] + 1
    left = round(strength * count)
    if not 0 < strength <= 1 or left < 1:
        raise ValueError(f"strength: expected a share in (0, 1] that leaves one of {count} steps, got {strength}")
    first = steps.index(count - left)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    return first


def denoise(
    scheduler: Any,
    noise: Tensor,
    predict: Predict,
    *,
    clean: Tensor | None = None,
    first: int = 0,
    generators: Sequence[torch.Generator] | None = None,
    on_step: Callable[[int, Tensor, Tensor], Tensor] | None = None,
    eta: float = 0.0,
    kept: Kept | None = None,
    interrupted: Callable[[], bool] | None = None,
) -> Tensor:
    """Run the steps of a scheduler.

    Args:
        scheduler: of `make_scheduler`, its timesteps set.
        noise: (B, D, h, w) standard normal.
        predict: of the call's number, x_t and t gives the prediction, all of the batch.
        clean: (B, D, h, w) x_0 that is noised to begin with; None begins with the noise alone.
        first: the call that is the first one, of `start_at`; numbers count from there.
        generators: of the noise that an ancestral scheduler adds, one an image.
        on_step: gets the number of each finished step, its timestep and the sample after it, which it may change.
        eta: of DDIM, how much of the noise is drawn anew at each step: 0 none, 1 as much as DDPM.
        kept: the part of pictures that stays; None draws all.
        interrupted: asked after each step; true takes no other.

    Returns:
        (B, D, h, w) x_0.

    Raises:
        ConfigError: the scheduler knows no eta, and it is not 0.
    """
    timesteps = scheduler.timesteps[first:]
    if clean is None:
        sample: Tensor = noise * scheduler.init_noise_sigma
    else:
        sample = scheduler.add_noise(clean, noise, timesteps[:1].repeat(len(noise)))
    ancestral = "generator" in inspect.signature(scheduler.step).parameters
    extra: dict[str, Any] = {"generator": list(generators)} if generators and ancestral else {}
    if eta:
        if "eta" not in inspect.signature(scheduler.step).parameters:
            raise ConfigError(f"eta: expected 0, or the DDIMScheduler, which alone knows it, got {eta}")
        extra["eta"] = eta
    for number, timestep in enumerate(timesteps):
        seen = scheduler.scale_model_input(sample, timestep)
        sample = scheduler.step(predict(number, seen, timestep), timestep, sample, **extra).prev_sample
        if kept is not None:
            sample = kept.restore(sample, scheduler, timesteps[number + 1] if number + 1 < len(timesteps) else None)
        if on_step is not None:
            sample = on_step(number, timestep, sample)
        if interrupted is not None and interrupted():
            break
    return sample
