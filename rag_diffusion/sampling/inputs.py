"""What a caller may give to the pipeline, brought to one form, with an error where it does not fit."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from rag_diffusion.models.neighbor_batch import Neighbor

Given = Sequence[Neighbor] | Sequence[Sequence[Neighbor]]


def as_prompts(prompt: str | Sequence[str]) -> list[str]:
    """One text or several, as a list."""
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not prompts or not all(isinstance(text, str) for text in prompts):
        raise ValueError(f"prompt: expected a text or a list of texts, got {prompt!r}")
    return prompts


def by_prompt(given: Given, count: int) -> list[list[Neighbor]]:
    """Neighbors by hand: one list for all prompts, or one for each."""
    flat = [one for one in given if isinstance(one, Neighbor)]
    if len(flat) == len(given) and flat:
        return [flat] * count
    lists = [list(one) for one in given if isinstance(one, list | tuple)]
    wrong = [one for one in itertools.chain(*lists) if not isinstance(one, Neighbor)]
    if wrong or len(lists) != len(given) or len(lists) != count:
        got = type(wrong[0]).__name__ if wrong else f"{len(given)} entries"
        raise ValueError(
            f"neighbors: expected a list of Neighbor, or one such list for each of {count} prompts, got {got}"
        )
    return lists


def as_generators(given: torch.Generator | Sequence[torch.Generator] | None, count: int) -> list[torch.Generator]:
    """One generator for each image; a single one is shared, None draws seeds."""
    if given is None:
        seeds = torch.randint(2**31, (count,)).tolist()
        return [torch.Generator().manual_seed(seed) for seed in seeds]
    if isinstance(given, torch.Generator):
        return [given] * count
    if len(given) != count:
        raise ValueError(f"generator: expected one, or one for each of {count} images, got {len(given)}")
    return list(given)


def initial_noise(generators: Sequence[torch.Generator], shape: tuple[int, ...], latents: Tensor | None) -> Tensor:
    """(B, D, h, w) standard normal; each image draws from its own generator, so the batch does not matter."""
    if latents is None:
        return torch.stack([torch.randn(shape, generator=one, device=one.device).cpu() for one in generators])
    if tuple(latents.shape) != (len(generators), *shape):
        raise ValueError(f"latents: expected shape {(len(generators), *shape)}, got {tuple(latents.shape)}")
    return latents.float()


def repeat(exclude: Sequence[Collection[str]] | None, times: int) -> list[Collection[str]] | None:
    """Each entry so many times in a row."""
    return None if exclude is None else [names for names in exclude for _ in range(times)]


def coins(generators: Sequence[torch.Generator]) -> list[int]:
    """A seed of the coin for each image: that of its generator, and a different one where they share one."""
    shared = len(generators) > 1 and len({id(one) for one in generators}) == 1
    return [one.initial_seed() + number * shared for number, one in enumerate(generators)]


def seeded(seeds: Sequence[int]) -> list[torch.Generator]:
    """One generator for each seed."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]
