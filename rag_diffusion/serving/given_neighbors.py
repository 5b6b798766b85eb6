"""Neighbors by hand in a request to the served model: JSON text with pictures in base64, and how each is used.

[{"image": "iVBOR...", "caption": "my cat", "mask": "left", "weight": 1, "weight_by_step": "early"},
 {"image": "iVBOR...", "negative": true}]
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from rag_diffusion.errors import DataError
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.readers.images import decode
from rag_diffusion.serving.draw_request import MAX_NEIGHBORS, MAX_PROMPT, DrawRequestError

MAX_BYTES = 32 * 2**20  # of one prompt's neighbors, as text
Decode = Callable[[bytes, str], Image.Image]
_PLAIN = ("weight", "role", "weight_by_step", "weight_by_map", "fit_mask", "negative", "licence", "attribution")


def read_neighbors(text: str, prompt: str) -> list[Neighbor]:
    """The neighbors of one prompt.

    Args:
        text: JSON, a list of objects with `image` and `caption`, and further attributes of `Neighbor`. `mask` is
            `left`, `right`, `top`, `bottom`, a list of four shares, or a picture in base64. Empty is none.
        prompt: the caption of those that bring none.

    Returns:
        At most `MAX_NEIGHBORS`.

    Raises:
        DrawRequestError: it is something else, or too much.
    """
    if not text:
        return []
    if len(text) > MAX_BYTES:
        raise DrawRequestError(f"neighbors: expected at most {MAX_BYTES} characters, got {len(text)}")
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DrawRequestError('neighbors: expected JSON, as [{"image": "<base64>", "caption": "my cat"}]')
    return neighbors_of(entries, prompt)


def neighbors_of(entries: Sequence[dict[str, Any]], prompt: str, decode: Decode = decode) -> list[Neighbor]:
    """The neighbors of one prompt, each an object as `read_neighbors` has it.

    Args:
        entries: of them.
        prompt: the caption of those that bring none.
        decode: makes a picture of a file's bytes, which have the name that is its second argument.

    Returns:
        At most `MAX_NEIGHBORS`.

    Raises:
        DrawRequestError: one is something else, or there are too many.
    """
    if len(entries) > MAX_NEIGHBORS:
        raise DrawRequestError(f"neighbors: expected at most {MAX_NEIGHBORS}, got {len(entries)}")
    return [_neighbor(number, entry, prompt, decode) for number, entry in enumerate(entries)]


def _neighbor(number: int, entry: dict[str, Any], prompt: str, decode: Decode) -> Neighbor:
    known = ("image", "caption", "mask", *_PLAIN)
    if unknown := sorted(set(entry) - set(known)):
        raise DrawRequestError(f"neighbor {number}: expected {', '.join(known)}, got {unknown[0]!r}"[:300])
    caption = entry.get("caption", prompt)
    if not isinstance(caption, str) or len(caption) > MAX_PROMPT:
        raise DrawRequestError(f"neighbor {number}: expected a caption of at most {MAX_PROMPT} characters")
    _check(number, entry)
    try:
        image = decode(_bytes(entry.get("image"), "image"), "image")
        mask = entry.get("mask")
        if isinstance(mask, str) and mask not in ("left", "right", "top", "bottom"):  # never the name of a file here
            mask = decode(_bytes(mask, "mask"), "mask")
        options = {name: entry[name] for name in _PLAIN if name in entry}
        return Neighbor(image=image, caption=caption, mask=mask, **options)
    except (ValueError, TypeError, DataError) as error:
        raise DrawRequestError(f"neighbor {number}: {error}"[:300]) from None


def _check(number: int, entry: dict[str, Any]) -> None:
    """Refuse what `Neighbor` takes as it comes, where it is of another kind."""
    for name in ("licence", "attribution"):
        if not isinstance(text := entry.get(name, ""), str) or len(text) > MAX_PROMPT:
            raise DrawRequestError(f"neighbor {number}: expected {name} as a text of at most {MAX_PROMPT} characters")
    for name in ("fit_mask", "negative"):
        if not isinstance(entry.get(name, True), bool):
            raise DrawRequestError(f"neighbor {number}: expected {name} as true or false, got {entry[name]!r}"[:300])


def _bytes(text: Any, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise DrawRequestError(f"{what}: expected a picture in base64") from None
