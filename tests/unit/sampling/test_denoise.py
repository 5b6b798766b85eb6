"""Every scheduler through our loop, against a closed form."""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from rag_diffusion.errors import ConfigError
from rag_diffusion.models.generator import noise_schedule
from rag_diffusion.models.parametrisation import from_clean
from rag_diffusion.sampling.denoise import (
    SCHEDULERS,
    check_fits,
    denoise,
    make_scheduler,
    solver_steps,
    start_at,
    takes_variance,
)

MEAN, DEVIATION = 0.4, 0.3


LATENT = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)  # Stable Diffusion's


def ideal_of(schedule: DDPMScheduler) -> Any:
    """The best denoiser for x_0 ~ N(m, s^2): E[x_0 | x_t] = m + a s^2 / (a^2 s^2 + b^2) (x_t - a m)."""

    def ideal(number: int, sample: Tensor, timestep: Tensor) -> Tensor:
        alpha = schedule.alphas_cumprod[int(timestep)]
        a = alpha.sqrt()
        clean = MEAN + a * DEVIATION**2 / (alpha * DEVIATION**2 + 1 - alpha) * (sample - a * MEAN)
        return from_clean(schedule.config.prediction_type, sample, clean, alpha)

    return ideal


ideal = ideal_of(noise_schedule())


def scheduler(name: str, steps: int, schedule: DDPMScheduler | None = None) -> Any:
    made = make_scheduler(name, schedule or noise_schedule())
    made.set_timesteps(steps)
    return made


@pytest.mark.parametrize(
    ("schedule", "steps", "shift", "spread"),
    [(noise_schedule(), 200, 0.01, 0.03), (LATENT, 500, 0.02, 0.05)],  # the second ends above pure noise
    ids=["cosine-v", "linear-epsilon"],
)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_ideal_denoiser_of_a_gaussian_ends_with_that_gaussian(
    name: str, schedule: DDPMScheduler, steps: int, shift: float, spread: float
) -> None:
    noise = torch.randn(200, 1, 10, 10, generator=torch.Generator().manual_seed(0))
    generators = [torch.Generator().manual_seed(seed) for seed in range(200)]
    drawn = denoise(scheduler(name, steps, schedule), noise, ideal_of(schedule), generators=generators)
    assert float(drawn.mean()) == pytest.approx(MEAN, abs=shift)
    assert float(drawn.std()) == pytest.approx(DEVIATION, rel=spread)


@pytest.mark.parametrize("strength", [0.3, 0.7])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_noised_pictures_of_a_gaussian_stay_that_gaussian(name: str, strength: float) -> None:
    draws = torch.Generator().manual_seed(1)
    clean = MEAN + DEVIATION * torch.randn(200, 1, 10, 10, generator=draws)
    noise = torch.randn(clean.shape, generator=draws)
    made = scheduler(name, 200)
    first = start_at(made, strength)
    generators = [torch.Generator().manual_seed(seed) for seed in range(200)]
    drawn = denoise(made, noise, ideal_of(noise_schedule()), clean=clean, first=first, generators=generators)
    assert float(drawn.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(drawn.std()) == pytest.approx(DEVIATION, rel=0.03)
    likeness = float(torch.corrcoef(torch.stack([drawn.flatten(), clean.flatten()]))[0, 1])
    assert (likeness > 0.2) == (strength == 0.3), likeness  # .26 to .51 against .02 to .15 in closed form


@pytest.mark.parametrize("strength", [0.0, 1.5, 0.01])
def test_a_strength_that_leaves_no_step_is_refused(strength: float) -> None:
    with pytest.raises(ValueError, match=r"strength: expected a share in \(0, 1\] that leaves one of 10 steps"):
        start_at(scheduler("DDIMScheduler", 10), strength)


@pytest.mark.parametrize("name", ["DDPMScheduler", "EulerAncestralDiscreteScheduler"])
def test_ancestral_noise_is_that_of_the_image(name: str) -> None:
    noise = torch.zeros(2, 1, 4, 4)
    both = denoise(scheduler(name, 5), noise, ideal, generators=[torch.Generator().manual_seed(s) for s in (1, 2)])
    alone = denoise(scheduler(name, 5), noise[1:], ideal, generators=[torch.Generator().manual_seed(2)])
    torch.testing.assert_close(both[1:], alone)
    assert not torch.allclose(both[0], both[1])


@pytest.mark.parametrize(
    ("name", "reason"),
    [("NoScheduler", "diffusers has no such one"), ("PNDMScheduler", "not passed the closed-form test")],
)
def test_another_scheduler_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"expected one of DDIMScheduler, .* got '{name}': .*{reason}"):
        scheduler(name, 10)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("to", SCHEDULERS)
@pytest.mark.parametrize("start", SCHEDULERS)
def test_one_scheduler_made_from_another_is_the_same(start: str, to: str, learned: bool) -> None:
    schedule = noise_schedule()
    if learned:
        schedule = DDPMScheduler(beta_schedule="squaredcos_cap_v2", variance_type="learned_range")
    made = getattr(diffusers, to).from_config(make_scheduler(start, schedule).config)
    made.set_timesteps(10)
    check_fits(made, schedule)
    named = make_scheduler(to, schedule)
    named.set_timesteps(10)
    assert torch.equal(made.timesteps, named.timesteps)
    keys = inspect.signature(type(made).__init__).parameters.keys() - {"self"}
    assert {key: made.config[key] for key in keys} == {key: named.config[key] for key in keys}
    assert takes_variance(made) == (learned and to in ("DDPMScheduler", "DPMSolverMultistepScheduler"))


@pytest.mark.parametrize(
    ("made", "fault"),
    [
        (lambda config: diffusers.DDIMScheduler(), "predicts epsilon, not v_prediction"),
        (lambda config: diffusers.DDIMScheduler(prediction_type="v_prediction"), "other betas"),
        (lambda config: diffusers.DDIMScheduler.from_config(config, clip_sample=True), "thresholding of its own"),
        (
            lambda config: diffusers.DPMSolverMultistepScheduler.from_config(config, use_karras_sigmas=True),
            "noise levels between",
        ),
        (
            lambda config: diffusers.DPMSolverMultistepScheduler.from_config(config, lambda_min_clipped=-float("inf")),
            "no lambda_min_clipped",
        ),
        (
            lambda config: diffusers.EulerDiscreteScheduler.from_config(config, timestep_spacing="linspace"),
            "timesteps that are no integers",
        ),
    ],
)
def test_a_set_up_that_does_not_fit_is_refused(made: Any, fault: str) -> None:
    one = made(make_scheduler("DDIMScheduler", noise_schedule()).config)
    with contextlib.suppress(IndexError, AssertionError):
        one.set_timesteps(8)
    with pytest.raises(ConfigError, match=fault):
        check_fits(one, noise_schedule())


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler"])
def test_steps_between_the_timesteps_are_refused(name: str) -> None:
    check_fits(scheduler(name, 30), noise_schedule())
    with pytest.raises(ConfigError, match="400 steps: it would land 20% of a step beside the next timestep"):
        check_fits(scheduler(name, 400), noise_schedule())


def test_the_two_halves_of_a_step_of_heun_belong_together() -> None:
    assert solver_steps(scheduler("HeunDiscreteScheduler", 3)) == [0, 0, 1, 1, 2]
    assert solver_steps(scheduler("DDIMScheduler", 3)) == [0, 1, 2]
