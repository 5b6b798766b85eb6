"""Videos and animated images as captioned frames."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from rag_diffusion.errors import DataError, MissingExtraError
from rag_diffusion.extras import need
from rag_diffusion.readers.captioned import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    CaptionedFile,
    captioned_rows,
    has_files,
    sidecar_rows,
)
from rag_diffusion.readers.fields import make_item
from rag_diffusion.readers.images import MAX_PIXELS, encode_png, on_white, raster_formats
from rag_diffusion.readers.records import Item, Rejection

ANIMATED_SUFFIXES = frozenset({".gif", ".webp", ".png", ".apng", ".avif"})
CLIP_SUFFIXES = ANIMATED_SUFFIXES | VIDEO_SUFFIXES
MAX_FRAMES = 10_000  # taken of one clip
VIDEO_INTERVAL = 1.0  # seconds
FRAME_SIDE = 512  # pixels; larger frames are scaled down before they become squares
_WEBP_SIDE = 16_383  # pixels, the most that a WebP has
_HASTE = 0.04  # seconds a frame is shown where an animated image says 0, as browsers have it, roughly
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,ogg,flv,asf"  # no playlists that name files


class FramesReader:
    """Frames of one clip, or of all clips of a folder; items are named `<clip>#<number of the frame>`.

    Args:
        path: a video or an animated image, or a folder that holds some, captioned like images.
        caption: of a single clip; read from the text file beside it where it is empty.
        interval: seconds between the frames that are taken; 0 takes all. By default all frames of an animated
            image, and one a second of a video.

    Raises:
        DataError: no clip there, or one video and no package that reads it.
    """

    def __init__(self, path: Path, *, caption: str = "", interval: float | None = None) -> None:
        known = path.suffix.lower() in CLIP_SUFFIXES if path.is_file() else has_files(path, CLIP_SUFFIXES)
        if not known:
            raise DataError(f"{path}: expected a video or an animated image ({', '.join(sorted(CLIP_SUFFIXES))})")
        self._path, self._caption, self._interval = path, caption, interval
        if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
            _av()

    def __iter__(self) -> Iterator[Item | Rejection]:
        folder = self._path if self._path.is_dir() else self._path.parent
        for row in self._rows():
            if row.problem:
                yield Rejection(what=row.name, reason=row.problem)
            else:
                yield from self._clip(row, folder / row.name)

    def _rows(self) -> Iterator[CaptionedFile]:
        if self._path.is_dir():
            yield from captioned_rows(self._path, CLIP_SUFFIXES)
        elif self._caption:
            yield CaptionedFile(name=self._path.name, caption=self._caption)
        else:
            rows = sidecar_rows(self._path.parent, {self._path.suffix.lower()})
            yield from (row for row in rows if row.name == self._path.name)

    def _clip(self, row: CaptionedFile, path: Path) -> Iterator[Item | Rejection]:
        video = path.suffix.lower() in VIDEO_SUFFIXES
        interval = (VIDEO_INTERVAL if video else 0.0) if self._interval is None else self._interval
        frames = _video_frames(path) if video else image_frames(path)
        number, due = -1, 0.0
        try:
            for number, (seconds, frame) in enumerate(frames):
                if number >= MAX_FRAMES:
                    raise DataError(f"too many frames: more than {MAX_FRAMES}; give an interval, or cut the clip")
                if interval and seconds < due - 1e-6:
                    continue
                due = due + interval * (1 + int((seconds - due) / interval)) if interval else 0.0
                name = f"{row.name}#{number:05d}"
                item = make_item(name, _encoded(frame), row.caption, row.fields)
                yield replace(item, side=FRAME_SIDE)
            if number < 0:
                raise DataError("no frame: the clip is empty")
        except DataError as error:
            yield Rejection(what=row.name, reason=f"{error}; read up to frame {number}")


def clip_pictures(path: Path, *, most: int = MAX_FRAMES) -> list[Image.Image]:
    """All frames of one clip as pictures.

    Args:
        path: a video or an animated image.
        most: frames that it may have.

    Returns:
        RGB, in their order.

    Raises:
        DataError: it is damaged, ends in the middle, is empty or longer, or no package reads it.
    """
    frames = _video_frames(path) if path.suffix.lower() in VIDEO_SUFFIXES else image_frames(path)
    pictures = list[Image.Image]()
    try:
        for _, frame in frames:
            if len(pictures) == most:
                raise DataError(f"too many frames: more than {most}; cut the clip")
            pictures.append(frame.convert("RGB"))
        if not pictures:
            raise DataError("no frame: the clip is empty")
    except DataError as error:
        raise DataError(f"{path}: expected a whole clip, got {error}") from None
    return pictures


def image_frames(path: Path) -> Iterator[tuple[float, Image.Image]]:
    """Seconds and pixels, on white, of each frame of the GIF, WebP, APNG or AVIF at `path`.

    Raises:
        DataError: no such image, a damaged or a too large one.
    """
    try:
        with Image.open(path, formats=raster_formats()) as clip:
            _check_size(*clip.size)
            whole = clip.format != "GIF" or _ends_as_gif(path)
            seconds = 0.0
            for number in range(getattr(clip, "n_frames", 1)):
                clip.seek(number)
                clip.load()
                yield seconds, on_white(clip)
                seconds += float(clip.info.get("duration") or 1000 * _HASTE) / 1000
            if not whole:
                raise DataError("truncated clip: a GIF without its end")
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on bytes made to harm
        text = type(error).__name__ if str(path) in str(error) or "<_io" in str(error) else str(error)
        raise DataError(f"corrupt clip: {text or type(error).__name__}") from None


def _video_frames(path: Path) -> Iterator[tuple[float, Image.Image]]:
    """Seconds and pixels of each frame of a video, turned as its container says.

    Raises:
        DataError: no video, a damaged or a too large one, or no package that reads it.
    """
    av = _av()
    try:
        with path.open("rb") as file, av.open(file, options={"format_whitelist": _CONTAINERS}) as container:
            if not container.streams.video:
                raise DataError("no frame: the file has no video stream")
            stream = container.streams.video[0]
            seconds = 0.0
            for number, frame in enumerate(container.decode(stream)):
                _check_size(frame.width, frame.height)
                seconds = float(frame.time if frame.time is not None else number / (stream.average_rate or 25))
                image = frame.to_image()
                turn = float(frame.rotation)
                yield max(seconds, 0.0), image.rotate(turn, expand=True) if turn else image
            _check_length(seconds, stream, container)
    except DataError:
        raise
    except (av.FFmpegError, OSError, ValueError, EOFError) as error:
        raise DataError(f"corrupt clip: {getattr(error, 'strerror', None) or type(error).__name__}") from None


def _ends_as_gif(path: Path) -> bool:
    """Whether the last byte that says something is a GIF's trailer; Pillow takes what is there for all."""
    with path.open("rb") as file:
        file.seek(-min(1024, path.stat().st_size), os.SEEK_END)
        return file.read().rstrip(b"\0").endswith(b";")


def _check_length(seconds: float, stream: Any, container: Any) -> None:
    """A video whose frames end well before its header says so was cut."""
    if stream.duration is not None:
        length = float(stream.duration * stream.time_base)
    else:
        length = (container.duration or 0) / 1e6
    if seconds + max(1.0, 0.05 * length) < length:
        raise DataError(f"truncated clip: it ends after {seconds:.1f} of {length:.1f} seconds")


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(f"decompression bomb: {width} x {height} pixels, at most {MAX_PIXELS}")


def _encoded(frame: Image.Image) -> bytes:
    """A frame at its own size, without loss; WebP takes as long as the fastest PNG and is smaller."""
    if max(frame.size) > _WEBP_SIDE or "WEBP" not in raster_formats():
        return encode_png(frame)
    buffer = io.BytesIO()
    frame.save(buffer, "WEBP", lossless=True, method=0, quality=0)
    return buffer.getvalue()


def _av() -> Any:
    try:
        need("video", "av")
    except MissingExtraError as error:
        raise DataError(f"no reader of videos: {error}") from None
    import av

    return av


def is_animated(path: Path) -> bool:
    """Whether the file at `path` is an image of several frames."""
    if path.suffix.lower() not in ANIMATED_SUFFIXES & (IMAGE_SUFFIXES | {".apng"}):
        return False
    try:
        with Image.open(path, formats=raster_formats()) as clip:
            return bool(getattr(clip, "is_animated", False))
    except Exception:  # no image at all, so no animated one
        return False
