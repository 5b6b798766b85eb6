"""What a caller may give to the pipeline, brought to one form, with an error where it does not fit."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from rag_diffusion.arrays import Pixels
from rag_diffusion.models.neighbor_batch import Neighbor, Picture, check_picture, framed_pixels

One = Neighbor | str | Path | Picture | tuple[Picture | str | Path, str]
Given = One | Sequence[One] | Sequence[Sequence[One]]
Pictures = Picture | Sequence[Picture]
EXAMPLES = (
    'for example pipe("an apple", "photo.png"), pipe("an apple", [(picture, "my apple"), "other.png"]) or '
    'pipe("an apple", Neighbor.from_file("photo.png", caption="my apple", licence="CC0-1.0"))'
)
_PLAIN = (Neighbor, str, Path, Image.Image, np.ndarray)
Exclude = Sequence[Collection[str]] | None


def as_prompts(prompt: str | Sequence[str] | None) -> list[str]:
    """`prompt`, one text or several, as a list.

    Raises:
        ValueError: it is something else, or an empty list.
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt or ())
    if not prompts or not all(isinstance(text, str) for text in prompts):
        raise ValueError(f"prompt: expected a text or a list of texts, got {prompt!r}")
    return prompts


def by_prompt(given: Given, prompts: Sequence[str]) -> list[list[Neighbor]]:
    """Neighbors by hand: one or a list for all prompts, or a list for each of them; an empty list is none.

    Args:
        given: a neighbor is a `Neighbor`, the name of an image file, a picture, or a tuple of either with its caption.
            One that brings no caption is said to show what the prompt asks for.
        prompts: P texts.

    Returns:
        A list of neighbors for each prompt.

    Raises:
        ValueError: they are something else, or one name stands for two different pictures.
        DataError: a file is none that is read.
    """
    if not _is_one(given) and not isinstance(given, Sequence):
        raise ValueError(f"neighbors: expected pictures, got {type(given).__name__}; {EXAMPLES}")
    entries = [given] if _is_one(given) else list(given)  # type: ignore[arg-type]
    if all(_is_one(entry) for entry in entries):
        lists = [entries] * len(prompts)
    else:
        lists = [list(entry) for entry in entries if isinstance(entry, list | tuple)]
        wrong = [neighbor for neighbor in itertools.chain(*lists) if not _is_one(neighbor)]
        if wrong or len(lists) != len(entries) or len(lists) != len(prompts):
            got = type(wrong[0]).__name__ if wrong else f"{len(entries)} entries"
            raise ValueError(
                f"neighbors: expected a list of them, or one such list for each of {len(prompts)} prompts, got {got}; "
                f"{EXAMPLES}"
            )
    neighbors = [[_neighbor(entry, prompt) for entry in own] for own, prompt in zip(lists, prompts, strict=True)]
    known: dict[str, Neighbor] = {}
    for neighbor in itertools.chain(*neighbors):
        if known.setdefault(neighbor.name, neighbor) is not neighbor and known[neighbor.name].digest != neighbor.digest:
            raise ValueError(f"neighbors: expected one picture and caption for pair id {neighbor.name!r}, got two")
    for own in neighbors:
        marks = {(neighbor.name, neighbor.control_digest) for neighbor in own}
        names = [name for name, _ in marks]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(
                f"neighbors: expected one mask and one set of weights for pair id {twice!r}, got two; give the second "
                "another pair_id"
            )
    return neighbors


def style_neighbors(given: One | Sequence[One], caption: str, what: str = "style_images") -> list[Neighbor]:
    """Pictures in the style wanted, as neighbors with that role.

    Args:
        given: one, or several, in the forms of `by_prompt`.
        caption: of those that bring none.
        what: the argument, for the error.

    Raises:
        ValueError: one is something else.
        DataError: a file is none that is read.
    """
    entries = [given] if _is_one(given) else list(given)  # type: ignore[arg-type]
    wrong = [type(entry).__name__ for entry in entries if not _is_one(entry)]
    if wrong:
        raise ValueError(f"{what}: expected pictures or names of image files, got {wrong[0]}")
    return [replace(_neighbor(entry, caption), role="style") for entry in entries]


def _is_one(given: object) -> bool:
    """Whether it is one neighbor, in any of its forms."""
    pair = isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], str)
    return isinstance(given, _PLAIN) or (pair and isinstance(given[0], _PLAIN))  # type: ignore[index]


def _neighbor(given: object, prompt: str) -> Neighbor:
    """One neighbor; `given` is what `_is_one` says."""
    if isinstance(given, Neighbor):
        return given
    picture, caption = given if isinstance(given, tuple) else (given, None)
    if isinstance(picture, Neighbor):
        return replace(picture, caption=str(caption))
    if isinstance(picture, str | Path):
        read = Neighbor.from_file(picture, caption)
        return read if read.caption else replace(read, caption=prompt)
    return Neighbor(image=picture, caption=prompt if caption is None else caption)


def as_pictures(given: Pictures, count: int, size: tuple[int, int]) -> Pixels:
    """Pictures to begin with.

    Args:
        given: one for all prompts, or one for each of them; any size.
        count: number of prompts.
        size: (H, W) in pixels.

    Returns:
        (count, H, W, 3) uint8.

    Raises:
        ValueError: they are none, or of another number.
    """
    pictures = [given] if isinstance(given, Image.Image | np.ndarray) else list(given)
    if len(pictures) not in (1, count):
        raise ValueError(f"image: expected one picture, or one for each of {count} prompts, got {len(pictures)}")
    for picture in pictures:
        check_picture(picture, "image")
    pixels = [framed_pixels(picture, size) for picture in pictures]
    return np.stack(pixels * (count // len(pixels)))


def check_exclude(exclude: Exclude, prompts: int, by_hand: bool) -> None:
    """Refuse pair ids to exclude that do not fit.

    Args:
        exclude: a collection of pair ids for each prompt; None is none.
        prompts: how many prompts there are.
        by_hand: whether neighbors are given by hand.

    Raises:
        ValueError: they do not fit.
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


def repeat(exclude: Exclude, times: int) -> list[Collection[str]] | None:
    """Each entry of `exclude` so many `times` in a row; None stays None."""
    return None if exclude is None else [names for names in exclude for _ in range(times)]
