"""What a caller may give to the pipeline, brought to one form, with an error where it does not fit."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from rag_diffusion.models.neighbor_batch import Neighbor, Picture, check_picture, square_pixels

Given = Neighbor | Sequence[Neighbor] | Sequence[Sequence[Neighbor]]
Pictures = Picture | Sequence[Picture]
Exclude = Sequence[Collection[str]] | None


def as_prompts(prompt: str | Sequence[str]) -> list[str]:
    """One text or several, as a list."""
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not prompts or not all(isinstance(text, str) for text in prompts):
        raise ValueError(f"prompt: expected a text or a list of texts, got {prompt!r}")
    return prompts


def by_prompt(given: Given, count: int) -> list[list[Neighbor]]:
    """Neighbors by hand: one or a list for all prompts, or a list for each of them; an empty list is none.

    Raises:
        ValueError: they are something else, or one name stands for two different pictures.
    """
    entries: list[object] = [given] if isinstance(given, Neighbor) else list(given)
    flat = [one for one in entries if isinstance(one, Neighbor)]
    lists = [list(one) for one in entries if isinstance(one, list | tuple)]
    if len(flat) == len(entries):
        lists = [flat] * count
    else:
        wrong = [one for one in itertools.chain(*lists) if not isinstance(one, Neighbor)]
        if wrong or len(lists) != len(entries) or len(lists) != count:
            got = type(wrong[0]).__name__ if wrong else f"{len(entries)} entries"
            raise ValueError(
                f"neighbors: expected a list of Neighbor, or one such list for each of {count} prompts, got {got}"
            )
    known: dict[str, Neighbor] = {}
    for one in itertools.chain(*lists):
        if known.setdefault(one.name, one) is not one and known[one.name].digest != one.digest:
            raise ValueError(f"neighbors: expected one picture and caption for pair id {one.name!r}, got two")
    return lists


def as_pictures(given: Pictures, count: int, size: int) -> NDArray[np.uint8]:
    """Pictures to begin with, (count, size, size, 3): one for all prompts, or one for each of them.

    Raises:
        ValueError: they are none, or of another number.
    """
    pictures = [given] if isinstance(given, Image.Image | np.ndarray) else list(given)
    if len(pictures) not in (1, count):
        raise ValueError(f"image: expected one picture, or one for each of {count} prompts, got {len(pictures)}")
    for one in pictures:
        check_picture(one, "image")
    pixels = [square_pixels(one, size) for one in pictures]
    return np.stack(pixels * (count // len(pixels)))


def check_exclude(exclude: Exclude, prompts: int, by_hand: bool) -> None:
    """Refuse pair ids to exclude that do not fit.

    Raises:
        ValueError: they do not.
    """
    if exclude is None:
        return
    if by_hand:
        raise ValueError("exclude: expected None with neighbors given by hand; leave the pairs out of them")
    if len(exclude) != prompts or any(isinstance(names, str) or names is None for names in exclude):
        raise ValueError(f"exclude: expected a collection of pair ids for each of {prompts} prompts, got {exclude!r}")


def check_counts(**counts: int) -> None:
    """Refuse numbers that are no whole numbers from their least on: 0 for neighbors, 1 for the rest.

    Raises:
        ValueError: one is not.
    """
    for name, value in counts.items():
        least = 0 if name.endswith("neighbors") else 1
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")


def reproducing_seeds(generators: Sequence[torch.Generator], latents: Tensor | None) -> list[int | None]:
    """The seed that draws each image again; None where none does: a generator that was used, is shared, or latents."""
    if latents is not None:
        return [None] * len(generators)
    shared = {key for key, times in Counter(id(one) for one in generators).items() if times > 1}
    fresh = [torch.Generator(one.device).manual_seed(one.initial_seed()).get_state() for one in generators]
    return [
        one.initial_seed() if id(one) not in shared and torch.equal(one.get_state(), state) else None
        for one, state in zip(generators, fresh, strict=True)
    ]


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


def repeat(exclude: Exclude, times: int) -> list[Collection[str]] | None:
    """Each entry so many times in a row."""
    return None if exclude is None else [names for names in exclude for _ in range(times)]


def coins(generators: Sequence[torch.Generator]) -> list[int]:
    """A seed of the coin for each image: that of its generator, and another one for each image that shares it."""
    times: Counter[int] = Counter()
    seeds = []
    for one in generators:
        seeds.append((one.initial_seed() + times[id(one)]) % 2**63)
        times[id(one)] += 1
    return seeds


def seeded(seeds: Sequence[int]) -> list[torch.Generator]:
    """One generator for each seed."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]
