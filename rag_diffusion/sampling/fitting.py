"""Schedulers that came with weights: taken as they are where they fit, and the default in their place otherwise."""

from __future__ import annotations

import warnings
from typing import Any

from diffusers import DDPMScheduler

from rag_diffusion.sampling.denoise import DEFAULT_SCHEDULER, SCHEDULERS, make_scheduler


def fitting_name(saved: str | None) -> str:
    """The class name of a scheduler that was `saved`, or the default where that one does not fit, with a warning."""
    if saved is None or saved in SCHEDULERS:
        return saved or DEFAULT_SCHEDULER
    warnings.warn(
        f"{saved} was saved with these weights, and is none that passed the closed-form test: drawing with "
        f"{DEFAULT_SCHEDULER} instead. Choose one by scheduler=: {', '.join(SCHEDULERS)}",
        stacklevel=3,
    )
    return DEFAULT_SCHEDULER


def fitting_scheduler(given: Any, schedule: DDPMScheduler) -> Any:
    """A scheduler to draw with.

    Args:
        given: a class name, or one of diffusers, which is taken as it is set but for thresholding of its own, which is
            the pipeline's business; None is the default.
        schedule: betas and prediction type of the network.

    Raises:
        ConfigError: a name that is none of `denoise.SCHEDULERS`.
    """
    if given is None or isinstance(given, str):
        return make_scheduler(given or DEFAULT_SCHEDULER, schedule)
    name = fitting_name(type(given).__name__)
    if name != type(given).__name__:
        return make_scheduler(name, schedule)
    own = {kind: False for kind in ("clip_sample", "thresholding") if given.config.get(kind)}
    return type(given).from_config(given.config, **own) if own else given
