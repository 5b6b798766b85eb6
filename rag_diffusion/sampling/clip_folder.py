"""The folder of a clip: its finished frames, each written whole, so that a clip that was stopped goes on there.

clip.json            what decides the clip; only the same one goes on
frames/00001.png     with its provenance inside, and beside as JSON
small/00001.png      as the next frames see it, where that is another picture
clip.webp, .gif ...  the clip, once all frames are there
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.files import atomic_write
from rag_diffusion.readers.images import encode_png
from rag_diffusion.sampling.clip_frames import ClipFrame, read_frame
from rag_diffusion.sampling.provenance import Provenance, Sign, save_picture
from rag_diffusion.sampling.rollout import Rollout

PLAN = "clip.json"
_FORMAT = 1


class ClipFolder:
    """A folder that keeps the frames of one clip.

    Args:
        path: of the folder; it need not exist.
        sign: puts credentials into the frames; None puts none.

    Examples:
        >>> from rag_diffusion import RetrievalPipeline
        >>> from rag_diffusion.sampling.clip_folder import ClipFolder
        >>> pipe = RetrievalPipeline.from_pretrained("data/base")
        >>> out = pipe.rollout("a circle", "photos/red.png", num_frames=2, folder="circle", num_inference_steps=1)
        >>> [path.name for path in ClipFolder("circle").frame_paths()]
        ['00001.png', '00002.png']
    """

    def __init__(self, path: str | Path, sign: Sign | None = None) -> None:
        self.path, self._sign = Path(path), sign

    def plan(self) -> dict[str, Any] | None:
        """What decides the clip that lies here; None where there is none.

        Raises:
            DataError: it is damaged.
        """
        file = self.path / PLAN
        if not file.exists():
            return None
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            facts: dict[str, Any] = content["facts"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file}: expected what decides a clip, got {error}; remove the folder") from None
        if content.get("format") != _FORMAT:
            raise DataError(f"{file}: expected format {_FORMAT}, got {content.get('format')!r}; use another folder")
        return facts

    def begin(self, rollout: Rollout) -> None:
        """Keep the clip of `rollout` here, or go on with it.

        Raises:
            ConfigError: another clip lies here, or other files.
            DataError: what lies here is damaged.
        """
        facts, before = _plain(rollout.facts()), self.plan()
        if before is None:
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise ConfigError(
                    f"{self.path}: expected an empty folder or one of a clip, got other files; name another"
                )
            atomic_write(self.path / PLAN, json.dumps({"format": _FORMAT, "facts": facts}, indent=1) + "\n")
        elif other := [name for name in facts if before.get(name) != facts[name]]:
            raise ConfigError(
                f"{self.path}: expected the clip that was begun here, got another {', '.join(other)}; name another "
                "folder, or remove this one to begin anew"
            )

    def read(self, number: int) -> ClipFrame | None:
        """See `rollout.Kept.read` for `number`.

        Raises:
            DataError: the frame is damaged.
        """
        path = self._frame(number)
        if not path.exists():
            return None
        pixels, small, beside = read_frame(path), self._small(number), path.with_suffix(".json")
        try:
            told = json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else {}
            given = told.get("given")
            provenance = None if given is not None else Provenance.from_dict(told)
        except (OSError, ValueError) as error:
            raise DataError(f"{beside}: expected what made a frame, got {error}; remove it and the frame") from None
        seen = read_frame(small) if small.exists() else pixels
        return ClipFrame(number=number, pixels=pixels, small=seen, provenance=provenance, **(given or {}))

    def write(self, frame: ClipFrame) -> None:
        """See `rollout.Kept.write` for `frame`; its picture comes last, and is there once all of it is."""
        path = self._frame(frame.number)
        path.unlink(missing_ok=True)
        if not np.array_equal(frame.small, frame.pixels):
            atomic_write(self._small(frame.number), encode_png(frame.small))
        if frame.provenance is not None:
            save_picture(path, frame.pixels, frame.provenance, self._sign, picture_last=True)
            return
        given = {"licence": frame.licence, "attribution": frame.attribution, "source": frame.source}
        atomic_write(path.with_suffix(".json"), json.dumps({"given": given}, indent=1) + "\n")
        atomic_write(path, encode_png(frame.pixels))

    def frame_paths(self) -> list[Path]:
        """Files of the frames from the first on, as far as they are there."""
        paths = list[Path]()
        while (path := self._frame(len(paths) + 1)).exists():
            paths.append(path)
        return paths

    def frames(self) -> Iterator[ClipFrame]:
        """The frames from the first on, read one at a time, as far as they are there."""
        number = 1
        while (frame := self.read(number)) is not None:
            yield frame
            number += 1

    def _frame(self, number: int) -> Path:
        return self.path / "frames" / f"{number:05d}.png"

    def _small(self, number: int) -> Path:
        return self.path / "small" / f"{number:05d}.png"


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as they come out of a file."""
    found: dict[str, Any] = json.loads(json.dumps(facts, default=str))
    return found
