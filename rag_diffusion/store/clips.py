"""Clips on the disk: the frames of all in one array, and whose they are.

frames.npy     (F, H, W, 3) uint8, those of the first clip first
clips.json     hash, size, rejections, and a row for each clip

Shapes: F frames of all clips, H/W image.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rag_diffusion.arrays import Pixels
from rag_diffusion.errors import DataError
from rag_diffusion.files import atomic_dir

_FRAMES, _MANIFEST = "frames.npy", "clips.json"


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What is known of a clip.

    Attributes:
        name: its name, the same whenever it is read.
        entity: what it shows, as `types.Pair` has it.
        family: entities that must stand in one split.
        split: train, validation or test.
        title: the entity in words.
        caption: a text that describes it.
        licence: under which it may be used.
        attribution: its authors.
        seconds: between two of its frames.
        start: its first frame among those of all clips.
        count: its frames.
    """

    name: str
    entity: str
    family: str
    split: str
    title: str
    caption: str
    licence: str
    attribution: str
    seconds: float
    start: int
    count: int


def write_clips(
    folder: Path, clips: Sequence[Clip], frames: Iterable[Pixels], *, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Write clips as one folder, or not at all.

    Args:
        folder: to make or replace.
        clips: in the order of their frames.
        frames: (n, H, W, 3) of each clip, n its `count`.
        facts: more entries of the manifest, `rejected` among them.

    Returns:
        The manifest.

    Raises:
        DataError: there is no clip.
    """
    if not clips:
        raise DataError(f"{folder}: expected clips, got none; look at the rejections: {facts.get('rejected', [])[:5]}")
    parts = iter(frames)
    first = next(parts)
    total, digest, place = clips[-1].start + clips[-1].count, hashlib.sha256(), 0
    with atomic_dir(folder) as beside:
        array = np.lib.format.open_memmap(beside / _FRAMES, "w+", np.uint8, (total, *first.shape[1:]))
        for part in (first, *parts):
            array[place : place + len(part)] = part
            digest.update(part.tobytes())
            place += len(part)
        array.flush()
        rows = [asdict(clip) for clip in clips]
        digest.update(json.dumps(rows, sort_keys=True).encode())
        reasons = Counter(row["reason"].split(":")[0] for row in facts.get("rejected", []))
        manifest = dict(facts) | {
            "hash": digest.hexdigest(),
            "image_size": first.shape[1],
            "num_frames": total,
            "num_clips": len(clips),
            "num_families": len({clip.family for clip in clips}),
            "counts": dict(sorted(Counter(clip.split for clip in clips).items())),
            "num_rejected": reasons.total(),
            "rejected_by_reason": dict(sorted(reasons.items())),
            "clips": rows,
        }
        text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False)
        (beside / _MANIFEST).write_text(text + "\n", encoding="utf-8")
    return manifest


class Clips:
    """Clips of a folder.

    Args:
        manifest: of `write_clips`.
        frames: (F, H, W, 3).
    """

    def __init__(self, manifest: Mapping[str, Any], frames: Pixels) -> None:
        self.manifest, self._frames = manifest, frames
        self.clips = [Clip(**row) for row in manifest["clips"]]

    @classmethod
    def open(cls, folder: Path) -> Clips:
        """Clips of a `folder` that `write_clips` wrote, their frames mapped from the disk.

        Raises:
            DataError: there are none, or the files do not fit each other.
        """
        try:
            manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            frames: Pixels = np.load(folder / _FRAMES, mmap_mode="r")
            if len(frames) != manifest["num_frames"]:
                raise ValueError(f"{len(frames)} frames of {manifest['num_frames']}")
            return cls(manifest, frames)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{folder}: expected clips, got {error}; make them with `dvc --cd pipelines repro clips/dvc.yaml:clips`"
            ) from None

    @property
    def hash(self) -> str:
        """Of every frame and row."""
        return str(self.manifest["hash"])

    @property
    def image_size(self) -> int:
        """Side of a frame in pixels."""
        return int(self._frames.shape[1])

    def of(self, split: str) -> list[Clip]:
        """Clips of a `split`, in the order of their names."""
        return sorted((clip for clip in self.clips if clip.split == split), key=lambda clip: clip.name)

    def frames(self, clip: Clip, places: Sequence[int] | None = None) -> Pixels:
        """(n, H, W, 3) of a `clip`: at `places`, from 0, or all of them where it is None."""
        rows = self._frames[clip.start : clip.start + clip.count]
        return np.asarray(rows if places is None else rows[list(places)])
