"""A drawing as it grows: every step's estimate, then the picture; one drawing at a time, and none for nobody.

Whoever reads the stream may leave: the computation ends at the step that it is at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any

from torch import Tensor

from rag_diffusion.arrays import Pixels
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.models.codec import images_to_pixels
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.project import open_pipeline
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.studio import Picture, Variant, draw


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a picture looks like so far.

    Attributes:
        pixels: (H, W, 3) uint8, the estimate of x_0; in a further stage of a cascade what the first one drew.
        step: of so many that is done, from 1.
        num_steps: T.
        stage: of a cascade, from 1.
    """

    pixels: Pixels
    step: int
    num_steps: int
    stage: int = 1


class Drawer:
    """A project's generator, opened beside the server's start, and one drawing at a time.

    Args:
        root: of the project.
        base: what neighbors are retrieved from.
        model: weights by name; None is the project's own.
    """

    def __init__(self, root: Path, base: KnowledgeBase, model: str | None = None) -> None:
        self._thread = ThreadPoolExecutor(1, "drawing")
        self._under_way: set[Event] = set()
        self._opened: Future[RetrievalPipeline] = self._thread.submit(_opened, root, base, model)

    @property
    def pipeline(self) -> RetrievalPipeline:
        """The generator's; waits until it is there.

        Raises:
            ModelError: it cannot be opened.
        """
        return self._opened.result()

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
            RagDiffusionError, ValueError: as the pipeline.
        """
        queue: SimpleQueue[Preview | Picture | Exception | None] = SimpleQueue()
        left, last = Event(), list[Pixels]()
        self._under_way.add(left)

        def look(pipe: RetrievalPipeline, number: int, timestep: Tensor, values: dict[str, Any]) -> dict[str, Tensor]:
            if left.is_set():
                raise _LeftError
            stage, num_steps = values["stage"], pipe.scheduler.num_inference_steps
            if stage == 1:
                images = pipe.generator.codec.decode(values["pred_original_sample"]).float()
                last[:] = [images_to_pixels(images).cpu().numpy()[0]]
            else:
                num_steps = pipe.stages[stage - 2].settings.num_inference_steps
            queue.put(Preview(pixels=last[0], step=number + 1, num_steps=num_steps, stage=stage))
            return {}

        def compute() -> None:
            try:
                for variant in variants:
                    if left.is_set():
                        return
                    for picture in draw(
                        self.pipeline,
                        [prompt],
                        [seed],
                        variants=[variant],
                        given=given,
                        num_neighbors=num_neighbors,
                        options={**options, "callback_on_step_end": look},
                    ):
                        queue.put(picture)
            except _LeftError:
                pass
            except Exception as error:
                queue.put(error)
            finally:
                queue.put(None)

        self._thread.submit(compute)
        try:
            while (news := queue.get()) is not None:
                if isinstance(news, Exception):
                    raise news
                yield news
        finally:
            left.set()
            self._under_way.discard(left)

    def leave(self) -> None:
        """Compute no further what is being drawn."""
        for left in tuple(self._under_way):
            left.set()

    def close(self) -> None:
        """End the thread that draws, at the step that it is at."""
        self.leave()
        self._thread.shutdown(cancel_futures=True)


class _LeftError(Exception):
    """Nobody waits for the drawing any more."""


def _opened(root: Path, base: KnowledgeBase, model: str | None) -> RetrievalPipeline:
    pipeline = open_pipeline(root, model, base)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
