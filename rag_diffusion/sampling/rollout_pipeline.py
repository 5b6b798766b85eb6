"""What a pipeline draws over time: `rollout`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, cast

import torch

from rag_diffusion.models.frames import drawing_of, with_changes
from rag_diffusion.sampling.clip_folder import ClipFolder
from rag_diffusion.sampling.clip_frames import ClipFrame, GivenFrames
from rag_diffusion.sampling.clip_output import RolloutOutput
from rag_diffusion.sampling.drawing_pipeline import DrawingPipeline
from rag_diffusion.sampling.frame_memory import FrameMemory
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.inputs import Given
from rag_diffusion.sampling.rollout import Rollout
from rag_diffusion.sampling.rollout_settings import RolloutSettings
from rag_diffusion.sampling.seeds import image_seeds

if TYPE_CHECKING:
    from rag_diffusion.sampling.pipeline import RetrievalPipeline

OnFrame = Callable[["RetrievalPipeline", ClipFrame], None]


class RolloutPipeline(DrawingPipeline):
    """Clips frame by frame; see `RetrievalPipeline` for the arguments."""

    frames_drawing: Mapping[str, Any] = MappingProxyType({})  # how `frames` draws best where nothing else is asked for

    def load_frames(self, folder: str | Path) -> Self:
        """Let frames that follow others be drawn with changed weights; pictures are drawn as before.

        Args:
            folder: that `models.frames.save_changes` wrote, e.g. data/frames, which was trained on clips.

        Returns:
            This pipeline.

        Raises:
            ModelError: the changes do not fit the generator, or the folder is damaged.
        """
        self.frames = with_changes(self.generator, Path(folder))
        told = drawing_of(Path(folder))
        guidance = {"guidance": Guidance(**told["guidance"])} if "guidance" in told else {}
        self.frames_drawing = told | guidance
        return self

    def rollout(
        self,
        prompt: str,
        frames: GivenFrames | None = None,
        *,
        num_frames: int = 16,
        num_last: int = 1,
        num_retrieved: int = 2,
        num_pairs: int = 0,
        num_neighbors: int = 3,
        with_first: bool = True,
        first_weight: float = 8.0,
        diversity: float = 0.3,
        same_noise: bool = False,
        neighbors: Given | None = None,
        memory: FrameMemory | None = None,
        generator: torch.Generator | None = None,
        stages: int | None = None,
        folder: str | Path | None = None,
        callback_on_frame_end: OnFrame | None = None,
        **options: Any,
    ) -> RolloutOutput:
        """Draw a clip: each next frame from the text, frames before it, and pairs.

        Args:
            prompt: what the clip shows, its motion among it.
            frames: that it begins with: pictures, image files or `Neighbor`s with their licences, one or several of one
                size, or the file of a clip; None draws the first from the text and pairs.
            num_frames: of the clip, given ones among them; 2 to 1000.
            num_last: last frames that the next one looks at.
            num_retrieved: earlier ones beside them, found by how they look and when they were.
            num_pairs: pairs of the knowledge base beside the frames.
            num_neighbors: pairs that a first frame looks at which is drawn.
            with_first: whether the first frame is always among the retrieved ones.
            first_weight: how much the first frame counts then.
            diversity: 0 retrieves what looks most like the last frame; up to 1, what is far in time from what is shown.
            same_noise: whether all frames begin with the same noise.
            neighbors: pairs by hand in place of retrieved ones, as in `__call__`; every frame looks at all.
            memory: of the frames so far; None is a new `FrameMemory` with the default rule.
            generator: whose seed is that of the noise; None draws one, or takes that of the clip in `folder`.
            stages: of a cascade; None is all. Frames look at each other as the first stage drew them.
            folder: keeps every finished frame, and has those of the same clip where it was stopped: it goes on there.
            callback_on_frame_end: gets the pipeline and a finished frame; what it raises ends the clip, and after it
                sets `_interrupt` of the pipeline, no further frame is drawn.
            **options: more of `__call__`, of drawing (`guidance`, `num_inference_steps`, `negative_prompt` ...) and of
                retrieval (`where`, `exclude`, `style` ...).

        Returns:
            The frames and their provenance, as many as were drawn.

        Raises:
            TypeError: an option that a clip does not have.
            ValueError: something does not fit; nothing was drawn or written then.
            ConfigError: another clip lies in the folder.
            DataError: a given file, or a frame of the folder, is damaged.
            BlockedError: the prompt is on the blocklist.

        Examples:
            >>> from rag_diffusion import RetrievalPipeline
            >>> pipe = RetrievalPipeline.from_pretrained("data/base")
            >>> out = pipe.rollout("a circle that grows", "photos/red.png", num_frames=3, num_inference_steps=1)
            >>> [(source.pair_id, source.caption) for source in out.provenance[2].neighbors]
            [('frame/00002', 'a circle that grows, the frame before'),
             ('frame/00001', 'a circle that grows, the first frame')]
            >>> out.save("circle.webp").name
            'circle.webp'
        """
        settings = RolloutSettings(
            num_frames=num_frames,
            num_last=num_last,
            num_retrieved=num_retrieved,
            num_pairs=num_pairs,
            num_neighbors=num_neighbors,
            with_first=with_first,
            first_weight=first_weight,
            diversity=diversity,
            same_noise=same_noise,
        )
        kept = None if folder is None else ClipFolder(folder)
        before = None if kept is None or generator is not None else kept.plan()
        rollout = Rollout(
            cast("RetrievalPipeline", self),
            prompt,
            frames,
            settings,
            neighbors=neighbors,
            memory=memory,
            seed=image_seeds(generator, 1)[0] if before is None else before["seed"],
            stages=stages,
            options=options,
        )
        if kept is not None:
            kept.begin(rollout)
        with closing(self._frames(rollout, kept, callback_on_frame_end)) as drawn:
            finished = [(frame.image, frame.provenance) for frame in drawn]
        return RolloutOutput(frames=[one for one, _ in finished], provenance=[origin for _, origin in finished])

    def _frames(self, rollout: Rollout, kept: ClipFolder | None, tell: OnFrame | None) -> Generator[ClipFrame]:
        """The frames, told to a callback, until it interrupts."""
        self._interrupt = False
        with self.progress_bar(total=len(rollout)) as bar:
            for frame in rollout.run(kept):
                yield frame
                bar.update()
                if tell is not None:
                    tell(cast("RetrievalPipeline", self), frame)
                if self._interrupt:
                    return
