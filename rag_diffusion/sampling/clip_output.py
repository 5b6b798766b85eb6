"""A finished clip as a file that plays: animated WebP, GIF or MP4; and what `rollout` returns.

MP4 is written frame by frame; WebP and GIF hold the clip's pixels while they are written.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from diffusers.utils import BaseOutput
from PIL import Image

from rag_diffusion.arrays import Pixels
from rag_diffusion.errors import ConfigError
from rag_diffusion.extras import need
from rag_diffusion.files import atomic_write
from rag_diffusion.sampling.clip_frames import ClipFrame
from rag_diffusion.sampling.provenance import Provenance

FORMS = (".webp", ".gif", ".mp4")
FPS = 8.0
_FASTEST = {".webp": 1000.0, ".gif": 50.0, ".mp4": 240.0}  # frames a second; GIF counts hundredths of a second


@dataclass
class RolloutOutput(BaseOutput):
    """What `rollout` returns.

    Attributes:
        frames: PIL images in order, given ones first.
        provenance: of each; None of those that were given.
    """

    frames: list[Image.Image]
    provenance: list[Provenance | None]

    def save(self, path: str | Path, fps: float = FPS) -> Path:
        """Write the clip as a file that plays.

        Args:
            path: NAME.webp, NAME.gif or NAME.mp4.
            fps: frames a second.

        Returns:
            The same path.

        Raises:
            ConfigError: another ending, or a rate that it cannot have.
            MissingExtraError: MP4, and PyAV is not installed.
        """
        return save_clip(Path(path), (np.asarray(frame) for frame in self.frames), fps)


def check_form(path: Path, fps: float) -> None:
    """Refuse before anything is drawn what could not be written.

    Args:
        path: of the file.
        fps: frames a second.

    Raises:
        ConfigError: another ending, or a rate that it cannot have.
        MissingExtraError: MP4, and PyAV is not installed.
    """
    form = path.suffix.lower()
    if form not in FORMS:
        raise ConfigError(f"{path}: expected a clip as {', '.join(FORMS)}, got {form or 'no ending'}")
    if not 0.1 <= fps <= _FASTEST[form]:
        raise ConfigError(f"fps: expected 0.1 to {_FASTEST[form]:g} frames a second of a {form[1:]}, got {fps:g}")
    if form == ".mp4":
        need("video", "av")


def save_clip(path: Path, frames: Iterable[Pixels], fps: float = FPS) -> Path:
    """Write a clip whole, or nothing.

    Args:
        path: NAME.webp, NAME.gif or NAME.mp4.
        frames: (H, W, 3) each, of one size.
        fps: frames a second.

    Returns:
        The same path.

    Raises:
        ConfigError, MissingExtraError: as `check_form`.
        ValueError: there are no frames, or of different sizes.
    """
    check_form(path, fps)
    atomic_write(path, encoded(path.suffix.lower(), frames, fps))
    return path


def encoded(form: str, frames: Iterable[Pixels], fps: float = FPS) -> bytes:
    """The bytes of a clip.

    Args:
        form: one of `FORMS`.
        frames: (H, W, 3) each, of one size.
        fps: frames a second.

    Raises:
        ValueError: there are no frames, or of different sizes.
    """
    checked = _of_one_size(frames)
    first = next(checked, None)
    if first is None:
        raise ValueError("frames: expected one or more, got none")
    buffer = io.BytesIO()
    if form == ".mp4":
        _write_mp4(buffer, first, checked, fps)
        return buffer.getvalue()
    more = [Image.fromarray(pixels) for pixels in checked]
    options: dict[str, Any] = {"lossless": True, "method": 4} if form == ".webp" else {"optimize": False}
    milliseconds = round(1000 / fps)
    Image.fromarray(first).save(
        buffer, form[1:].upper(), save_all=True, append_images=more, duration=milliseconds, loop=0, **options
    )
    return buffer.getvalue()


def pixels_of(frames: Iterable[ClipFrame]) -> Iterator[Pixels]:
    """What is shown of each of `frames`."""
    return (frame.pixels for frame in frames)


def _of_one_size(frames: Iterable[Pixels]) -> Iterator[Pixels]:
    shape = None
    for number, pixels in enumerate(frames, start=1):
        shape = shape or pixels.shape
        if pixels.shape != shape:
            raise ValueError(f"frame {number}: expected {shape[:2]} pixels as the first, got {pixels.shape[:2]}")
        yield pixels


def _write_mp4(buffer: io.BytesIO, first: Pixels, more: Iterable[Pixels], fps: float) -> None:
    """H.264, whose sides are even: an odd one is filled up with white."""
    import av

    height, width = first.shape[:2]
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        stream.options = {"crf": "16", "threads": "1"}  # bytes of x264 still differ now and then
        for pixels in chain([first], more):
            even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), constant_values=255)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")))
        container.mux(stream.encode())
