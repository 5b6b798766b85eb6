"""A seed for every image, whatever the caller gave: one that draws it again by itself.

One generator for several images gives each of them a seed of its own, so that no image depends on its place in a batch:
the first has the generator's own seed where nothing was drawn from it yet, all others are drawn from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MOST = 2**62  # seeds are below it, so that the coin's arithmetic on them never overflows

Given = torch.Generator | Sequence[torch.Generator] | None


def image_seeds(given: Given, count: int) -> list[int]:
    """A seed for each of B images; what was given is moved on, so that its next images are other ones.

    Args:
        given: one generator for all images, or one for each of them; None draws seeds.
        count: B.

    Raises:
        ValueError: there are neither one nor B generators.
    """
    if given is None:
        return [int(seed) for seed in torch.randint(2**31, (count,)).tolist()]
    generators = [given] * count if isinstance(given, torch.Generator) else list(given)
    if len(generators) != count:
        raise ValueError(f"generator: expected one, or one for each of {count} images, got {len(generators)}")
    fresh = {id(one): _is_fresh(one) for one in generators}
    seeds = []
    for one in generators:
        drawn = int(torch.randint(MOST, (1,), generator=one, device=one.device).item())
        seeds.append(one.initial_seed() if fresh[id(one)] else drawn)
        fresh[id(one)] = False
    return seeds


def noise_device(given: Given) -> str:
    """Where noise is drawn for what was `given`: `cpu`, or the type of device of the generators."""
    if given is None:
        return "cpu"
    return str((given if isinstance(given, torch.Generator) else given[0]).device.type)


def seeded(seeds: Sequence[int], device: str = "cpu") -> list[torch.Generator]:
    """One generator on `device` for each of `seeds`."""
    return [torch.Generator(device).manual_seed(seed) for seed in seeds]


def initial_noise(generators: Sequence[torch.Generator], shape: tuple[int, ...], latents: Tensor | None) -> Tensor:
    """x_T; each image draws from its own generator, so the batch does not matter.

    Args:
        generators: one for each of B images.
        shape: (D, h, w).
        latents: (B, D, h, w) that a caller gave in its place.

    Returns:
        (B, D, h, w) standard normal, on the CPU unless given.

    Raises:
        ValueError: `latents` have another shape.
    """
    if latents is None:
        return torch.stack([torch.randn(shape, generator=one, device=one.device).cpu() for one in generators])
    if tuple(latents.shape) != (len(generators), *shape):
        raise ValueError(f"latents: expected shape {(len(generators), *shape)}, got {tuple(latents.shape)}")
    return latents.float()


def _is_fresh(one: torch.Generator) -> bool:
    untouched = torch.Generator(one.device).manual_seed(one.initial_seed())
    return torch.equal(one.get_state(), untouched.get_state())
