"""A drawing as it grows on a page: every step's estimate, then the picture.

Whoever reads the stream may leave: the computation ends at the step that it is at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.sampling.clip_frames import ClipFrame
from rag_diffusion.sampling.pipeline import OnStep, RetrievalPipeline
from rag_diffusion.sampling.rollout import Rollout
from rag_diffusion.sampling.studio import Picture, PictureRequest, Variant
from rag_diffusion.serving.drawing_queue import ALL, DrawingQueue, Preview, WorkRequest


class Drawer:
    """What the page draws with: the server's queue of pictures, behind those that others asked for.

    Args:
        root: of the project.
        base: what neighbors are retrieved from.
        model: weights by name; None is the project's own.
        **bounds: of `DrawingQueue`.

    Attributes:
        queue: of all pictures.
    """

    def __init__(self, root: Path, base: KnowledgeBase, model: str | None = None, **bounds: int) -> None:
        self.queue = DrawingQueue(root, base, model, **bounds)

    @property
    def pipeline(self) -> RetrievalPipeline:
        """The generator's; waits until it is there.

        Raises:
            ModelError: it cannot be opened.
        """
        return self.queue.pipeline

    def stream(
        self,
        prompt: str,
        seed: int,
        variants: Sequence[Variant],
        given: Sequence[Neighbor],
        num_neighbors: int,
        options: Mapping[str, Any],
    ) -> Iterator[Preview | Picture]:
        """Draw variants of one prompt from the same noise, one after the other.

        Args:
            prompt: the text.
            seed: of the noise.
            variants: as `studio.draw`.
            given: neighbors by hand.
            num_neighbors: of `random` and `retrieved`.
            options: more of `RetrievalPipeline.__call__`.

        Yields:
            Of each variant a preview for every step, then the picture.

        Raises:
            RagDiffusionError, ValueError: as the pipeline, or too many pictures wait.
        """
        for variant in variants:
            request = PictureRequest(
                prompt=prompt,
                seed=seed,
                variant=variant,
                given=given,
                num_neighbors=num_neighbors,
                options=options,
            )
            yield from self._stream(request)

    def _stream(self, request: PictureRequest, previews: int = ALL) -> Iterator[Preview | Picture]:
        news: SimpleQueue[Preview | None] = SimpleQueue()
        (drawing,) = self.queue.submit([request], previews=previews, tell=lambda number, preview: news.put(preview))
        drawing.result.add_done_callback(lambda result: news.put(None))
        try:
            while (preview := news.get()) is not None:
                yield preview
            if not drawing.result.cancelled():
                yield drawing.result.result()
        finally:
            self.queue.leave([drawing])

    def roll(self, rollout: Rollout) -> Iterator[ClipFrame]:
        """Draw a clip frame by frame, each when it is its turn in the queue.

        Args:
            rollout: over the pipeline of this drawer.

        Yields:
            Its frames, given ones too.

        Raises:
            RagDiffusionError, ValueError: as the pipeline, or too many pictures wait.
        """
        frames = iter(rollout)
        for number in range(1, len(rollout) + 1):
            if number <= rollout.given:
                yield next(frames)
                continue
            drawn = list[ClipFrame]()

            def work(on_step: OnStep, drawn: list[ClipFrame] = drawn) -> Picture:
                rollout.watch(on_step)
                drawn.append(next(frames))
                assert drawn[0].provenance is not None
                return Picture(variant="given", pixels=drawn[0].pixels, provenance=drawn[0].provenance, heat=())

            request = WorkRequest(prompt=rollout.prompt, seed=rollout.seed, variant="given", work=work)
            if not any(isinstance(one, Picture) for one in self._stream(request, previews=0)):
                return
            yield drawn[0]

    def leave(self) -> None:
        """Compute no further what is being drawn."""
        self.queue.leave_all()

    def close(self) -> None:
        """End the thread that draws, at the step that it is at."""
        self.queue.close()
