"""Frames of a clip: those that are given to begin with, and what each of them owes.

Shapes: H/W picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rag_diffusion.arrays import Pixels
from rag_diffusion.errors import DataError
from rag_diffusion.models.neighbor_batch import Neighbor, Picture, check_picture, framed_pixels
from rag_diffusion.readers.captioned import VIDEO_SUFFIXES
from rag_diffusion.readers.frames import clip_pictures, is_animated
from rag_diffusion.sampling.credit import FRAME, UNSPECIFIED, author_of
from rag_diffusion.sampling.frame_memory import Frame
from rag_diffusion.sampling.frame_text import frame_caption
from rag_diffusion.sampling.provenance import Provenance, Source

MOST_FRAMES = 1000  # of a clip
GivenFrames = Picture | Neighbor | str | Path | Sequence[Picture | Neighbor | str | Path]
_AND = " AND "  # of SPDX expressions


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipFrame:
    """One frame of a clip.

    Attributes:
        number: its place, from 1.
        pixels: (H, W, 3), as it is shown.
        small: (H', W', 3), as the next frames see it: what the first stage of a cascade drew.
        provenance: what made it; None of a frame that was given.
        licence: of a frame that was given.
        attribution: its author.
        source: where it came from.
        drawn_now: whether it was drawn in this run, not read from a folder nor given.
    """

    number: int
    pixels: Pixels
    small: Pixels
    provenance: Provenance | None = None
    licence: str = ""
    attribution: str = ""
    source: str = FRAME
    drawn_now: bool = False

    @property
    def image(self) -> Image.Image:
        """As a PIL image."""
        return Image.fromarray(self.pixels)

    def remembered(self) -> Frame:
        """As a memory keeps it, with what it owes to the pairs that it was made from."""
        licence, attribution = self.licence, self.attribution
        if self.provenance is not None:
            licence, attribution = owed(self.provenance.neighbors)
        return Frame(
            number=self.number, pixels=self.small, licence=licence, attribution=attribution, source=self.source
        )


def owed(sources: Iterable[Source]) -> tuple[str, str]:
    """Licence and author of a frame, from the `sources` that it was made from.

    Returns:
        An SPDX expression of all licences, and all authors; empty where nothing is owed.
    """
    counted = [one for one in sources if one.source != FRAME or one.licence]
    licences = [part for one in counted for part in (one.licence.strip() or UNSPECIFIED).split(_AND)]
    authors = [part for one in counted for part in author_of(one).split("; ")]
    return _AND.join(dict.fromkeys(licences)), "; ".join(dict.fromkeys(authors))


def frame_neighbors(prompt: str, number: int, shown: Sequence[Frame], first_weight: float = 1.0) -> list[Neighbor]:
    """Earlier frames as the neighbors of a next one.

    Args:
        prompt: what the clip shows.
        number: of the frame that is drawn.
        shown: the earlier ones, of `FrameMemory.select`.
        first_weight: how much the very first frame counts, which drifted least.

    Returns:
        A neighbor for each, named `frame/NUMBER`.
    """
    return [
        Neighbor(
            image=frame.pixels,
            caption=frame_caption(prompt, number, frame.number),
            pair_id=f"frame/{frame.number:05d}",
            weight=first_weight if frame.number == 1 else 1.0,
            source=frame.source,
            licence=frame.licence,
            attribution=frame.attribution,
        )
        for frame in shown
    ]


def as_given(frames: GivenFrames) -> list[Neighbor]:
    """Frames that a clip begins with, checked.

    Args:
        frames: pictures, image files or `Neighbor`s with their licences; one of them, or the file of a clip: an
            animated GIF, WebP, PNG or AVIF, or a video.

    Returns:
        A neighbor for each, of one size; its caption is not read.

    Raises:
        ValueError: there are none, they are of different sizes, or all of one colour.
        DataError: a file is no picture and no clip, or ends in the middle.
    """
    one = isinstance(frames, str | Path | Neighbor) or not isinstance(frames, Sequence)
    entries: list[Any] = [frames] if one else list(frames)  # type: ignore[arg-type]
    if not entries:
        raise ValueError("frames: expected one or more, got an empty list; None draws the first from the text")
    given = [neighbor for entry in entries for neighbor in _read(entry)]
    if len(given) > MOST_FRAMES:
        raise ValueError(f"frames: expected at most {MOST_FRAMES}, got {len(given)}; give the last ones")
    sizes = [size_of(one.image) for one in given]
    if other := next((number for number, size in enumerate(sizes) if size != sizes[0]), 0):
        raise ValueError(
            f"frames: expected all of one size, got {sizes[0][0]} x {sizes[0][1]} pixels first and "
            f"{sizes[other][0]} x {sizes[other][1]} as frame {other + 1}; scale them to one"
        )
    if all(_one_colour(framed_pixels(one.image, 64)) for one in given):
        raise ValueError(
            "frames: expected one that shows something, got pictures of one colour; None draws the first from the text"
        )
    return given


def digest(pixels: Pixels) -> str:
    """Hash of a frame, `pixels` (H, W, 3)."""
    return hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:16]


def _read(entry: Picture | Neighbor | str | Path) -> list[Neighbor]:
    """The frames of one thing that was given."""
    if isinstance(entry, str | Path):
        path = Path(entry)
        if path.is_file() and (path.suffix.lower() in VIDEO_SUFFIXES or is_animated(path)):
            pictures = clip_pictures(path, most=MOST_FRAMES)
            return [Neighbor(image=one, caption="", source=path.name, licence=UNSPECIFIED) for one in pictures]
        read = Neighbor.from_file(path)
        return [replace(read, licence=read.licence or UNSPECIFIED)]
    if isinstance(entry, Neighbor):
        return [replace(entry, source=entry.source or "given frame", licence=entry.licence or UNSPECIFIED)]
    check_picture(entry, "frames")
    return [Neighbor(image=entry, caption="", source="given frame", licence=UNSPECIFIED)]


def size_of(picture: Picture) -> tuple[int, int]:
    """Width and height of a `picture`."""
    return picture.size if isinstance(picture, Image.Image) else (picture.shape[1], picture.shape[0])


def _one_colour(pixels: Pixels) -> bool:
    return bool((pixels == pixels[0, 0]).all())


def read_frame(path: Path) -> Pixels:
    """The picture (H, W, 3) of a frame's file at `path`.

    Raises:
        DataError: it is damaged.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise DataError(f"{path}: expected a frame of a clip, got {error}; remove it to draw it again") from None
