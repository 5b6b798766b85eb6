"""What `rag-diffusion animate` writes: a folder of frames a clip, the clip in every form, a page that plays all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rag_diffusion.errors import ConfigError
from rag_diffusion.files import atomic_write
from rag_diffusion.sampling.clip_folder import ClipFolder
from rag_diffusion.sampling.clip_frames import ClipFrame
from rag_diffusion.sampling.clip_output import check_form, save_clip
from rag_diffusion.sampling.clips_page import as_clips_page
from rag_diffusion.sampling.provenance import Sign
from rag_diffusion.sampling.rollout import Rollout
from rag_diffusion.sampling.studio import file_name


class AnimatedFiles:
    """Files of one clip below a folder of clips.

    Args:
        out: the folder of clips.
        prompt: of this one.
        seed: of its noise.
        forms: `webp`, `gif`, `mp4`.
        fps: frames a second.

    Attributes:
        folder: of this clip.
        sign: puts credentials into each frame; None puts none.

    Raises:
        ConfigError: a form or a rate that cannot be, or `out` is no folder.
        MissingExtraError: MP4, and PyAV is not installed.
    """

    def __init__(self, out: Path, prompt: str, seed: int, *, forms: Sequence[str], fps: float) -> None:
        if out.exists() and not out.is_dir():
            raise ConfigError(f"--out {out}: expected a folder, got a file; --form says which files are written in it")
        self._out, self._fps = out, fps
        self.sign: Sign | None = None
        self.folder = out / Path(file_name(prompt, seed)).stem
        self._paths = [self.folder / f"clip.{one.lower().lstrip('.')}" for one in dict.fromkeys(forms)]
        for path in self._paths:
            check_form(path, fps)

    def drawn(self, rollout: Rollout) -> Iterator[ClipFrame]:
        """The frames of a clip, each written when it comes.

        Args:
            rollout: the clip.

        Raises:
            ConfigError: another clip lies in its folder.
        """
        folder = ClipFolder(self.folder, self.sign)
        folder.begin(rollout)
        yield from rollout.run(folder)

    def finish(self) -> list[Path]:
        """Write the clip in every form, and the page of all clips.

        Returns:
            Their paths.
        """
        folder = ClipFolder(self.folder)
        for path in self._paths:
            save_clip(path, (frame.pixels for frame in folder.frames()), self._fps)
        clips = sorted(one.parent for one in self._out.glob("*/clip.json"))
        page = self._out / "index.html"
        atomic_write(page, as_clips_page([ClipFolder(one) for one in clips], "Clips", fps=self._fps, beside=self._out))
        return [*self._paths, page]
