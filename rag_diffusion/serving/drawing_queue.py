"""All pictures that a server draws, for whoever asks: a bounded queue, and batches of those that fit each other.

One thread draws. It takes the picture that has waited longest, and with it those behind it that differ in prompt, seed
and neighbors alone. A picture of a seed is the same in any batch. One that nobody waits for any more leaves the queue;
once nobody waits for any of a batch, its computation ends at the step that it is at.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from rag_diffusion.arrays import Pixels
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.marks.credentials import ContentCredentials
from rag_diffusion.models.codec import images_to_pixels
from rag_diffusion.project import model_of, open_pipeline
from rag_diffusion.sampling.pipeline import OnStep, RetrievalPipeline
from rag_diffusion.sampling.studio import Picture, PictureRequest, draw_batch
from rag_diffusion.serving.bounded_json import BodyError

BATCH = 8  # pictures drawn at once
WAITING = 64  # pictures that wait
ALL = -1  # previews: one for every step
_GATHER = 0.01  # seconds that the first picture of an idle queue waits for others
_PACE = 1.0  # seconds of a picture before the first was drawn
_LONGEST = 120  # seconds after which whoever is refused is asked to come again, at most


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


@dataclass(frozen=True, kw_only=True, eq=False)
class WorkRequest(PictureRequest):
    """A picture that is drawn alone, as whoever asks for it says.

    Attributes:
        work: gets what is to be called after every step, and draws, in the thread that draws.
    """

    work: Callable[[OnStep], Picture]

    def fits(self, other: PictureRequest) -> bool:
        """Never with any `other` one."""
        return self is other


@dataclass(kw_only=True, eq=False)
class Drawing:
    """One picture that waits or is drawn.

    Attributes:
        request: what is asked for.
        previews: how many are wanted, spread evenly over the steps of the first stage; `ALL` is one for each step.
        tell: gets them, in the thread that draws.
        result: the picture, or why there is none.
        left: whether nobody waits for it any more.
    """

    request: PictureRequest
    previews: int = 0
    tell: Callable[[Preview], None] = lambda preview: None
    result: Future[Picture] = field(default_factory=Future)
    left: bool = False

    def wants(self, stage: int, step: int, num_steps: int) -> bool:
        """Whether a preview is wanted now.

        Args:
            stage: of a cascade, from 1.
            step: of that stage that is done, from 1.
            num_steps: of that stage.
        """
        if self.previews == ALL or self.previews == 0:
            return self.previews == ALL
        parts = self.previews + 1
        return stage == 1 and step in {max(1, round(part * num_steps / parts)) for part in range(1, parts)}


@dataclass
class Counts:
    """What a queue has done since it began.

    Attributes:
        drawn, failed, left, refused: pictures that were drawn, that could not be, that nobody waited for in the end,
            and that found no room.
        batches: number of batches by their size.
        seconds: that drawing took.
    """

    drawn: int = 0
    failed: int = 0
    left: int = 0
    refused: int = 0
    batches: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0


class DrawingQueue:
    """A project's generator, opened beside the server's start, and what it has to draw. Safe among threads.

    Args:
        root: of the project.
        base: what neighbors are retrieved from.
        model: weights by name; None is the project's own.
        batch: pictures drawn at once.
        waiting: pictures that may wait; more are refused.

    Attributes:
        model: weights by name.
        counts: what it has done.
        sign: puts credentials into files of pictures, as `marks` in params.yaml says; None puts none.

    Raises:
        ModelError: the project has no weights.
    """

    def __init__(
        self, root: Path, base: KnowledgeBase, model: str | None = None, *, batch: int = BATCH, waiting: int = WAITING
    ) -> None:
        self.model = model or model_of(root)
        self.base, self.batch, self.most, self.counts = base, batch, waiting, Counts()
        self.sign = ContentCredentials.of_project(base.config.marks.credentials, root)
        self._opened: Future[RetrievalPipeline] = Future()
        self._waiting: deque[Drawing] = deque()
        self._drawn: list[Drawing] = []
        self._news, self._closed, self._pace = threading.Condition(), False, _PACE
        self._thread = threading.Thread(target=self._work, args=(root, self.model), name="drawing", daemon=True)
        self._thread.start()

    @property
    def pipeline(self) -> RetrievalPipeline:
        """The generator's; waits until it is there.

        Raises:
            ModelError: it cannot be opened.
        """
        return self._opened.result()

    @property
    def ready(self) -> bool:
        """Whether the generator is open."""
        return self._opened.done() and self._opened.exception() is None

    @property
    def waiting(self) -> int:
        """Pictures that wait."""
        return len(self._waiting)

    @property
    def drawing(self) -> int:
        """Pictures that are drawn at this moment."""
        return len(self._drawn)

    def submit(
        self,
        requests: Sequence[PictureRequest],
        *,
        previews: int = 0,
        tell: Callable[[int, Preview], None] = lambda number, preview: None,
    ) -> list[Drawing]:
        """Put pictures at the end of the queue, all or none.

        Args:
            requests: of them.
            previews: of each, see `Drawing`.
            tell: gets the number of a request and its previews, in the thread that draws.

        Returns:
            A drawing for each request.

        Raises:
            BodyError: there is no room; it says when to come again.
        """
        with self._news:
            if self._closed or len(self._waiting) + len(requests) > self.most:
                self.counts.refused += len(requests)
                again = max(1, min(_LONGEST, math.ceil(len(self._waiting) * self._pace)))
                got = f"{len(self._waiting)} that wait and {len(requests)} more"
                raise BodyError(429, f"expected at most {self.most} pictures to wait, got {got}; come again", again)
            drawings = [
                Drawing(request=request, previews=previews, tell=partial(tell, number))
                for number, request in enumerate(requests)
            ]
            self._waiting.extend(drawings)
            self._news.notify_all()
        return drawings

    def leave(self, drawings: Sequence[Drawing]) -> None:
        """Nobody waits for these `drawings` any more."""
        with self._news:
            for one in drawings:
                if not one.result.done() and not one.left:
                    one.left = True
                    self.counts.left += 1
                    if one in self._waiting:
                        self._waiting.remove(one)
                        one.result.cancel()

    def leave_all(self) -> None:
        """Draw no further what is drawn, and nothing of what waits."""
        self.leave([*self._waiting, *self._drawn])

    def close(self) -> None:
        """End the thread that draws, at the step that it is at."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        self.leave_all()
        self._thread.join()

    def _work(self, root: Path, model: str) -> None:
        try:
            pipeline = open_pipeline(root, model, self.base)
            pipeline.set_progress_bar_config(disable=True)
            self._opened.set_result(pipeline)
        except Exception as error:
            self._opened.set_exception(error)
        while batch := self._next():
            begun = time.monotonic()
            self._draw(batch)
            seconds = time.monotonic() - begun
            with self._news:
                self._drawn = []
                self.counts.batches[len(batch)] += 1
                self.counts.seconds += seconds
                self._pace += (seconds / len(batch) - self._pace) / 4

    def _next(self) -> list[Drawing]:
        """The next batch; none once the queue is closed."""
        with self._news:
            if not self._waiting:
                self._news.wait_for(lambda: self._waiting or self._closed)
                self._news.wait_for(lambda: len(self._waiting) >= self.batch or self._closed, _GATHER)
            if self._closed:
                return []
            if not self._waiting:  # who began it has left
                return self._next()
            first = self._waiting[0]
            batch = [one for one in self._waiting if one.request.fits(first.request)][: self.batch]
            self._waiting = deque(one for one in self._waiting if one not in batch)
            self._drawn = batch
            return batch

    def _draw(self, batch: Sequence[Drawing]) -> None:
        """Draw a batch; where it fails, each alone, so that an error is told to whom it belongs."""
        try:
            first, looking = batch[0].request, _Looking(batch, self.counts)
            if isinstance(first, WorkRequest):
                pictures = [first.work(looking)]
            else:
                pictures = draw_batch(self.pipeline, [one.request for one in batch], looking)
        except _LeftError:
            for one in batch:
                one.result.cancel()
        except Exception as error:
            if len(batch) > 1:
                for one in batch:
                    self._draw([one])
            else:
                self.counts.failed += 1
                batch[0].result.set_exception(error)
        else:
            self.counts.drawn += len(batch)
            for one, picture in zip(batch, pictures, strict=True):
                one.result.set_result(picture)


class _LeftError(Exception):
    """Nobody waits for the batch any more."""


@dataclass
class _Looking:
    """What is called after every step of a batch: tells previews, and ends what nobody waits for."""

    batch: Sequence[Drawing]
    counts: Counts
    last: dict[int, Pixels] = field(default_factory=dict)

    def __call__(
        self, pipe: RetrievalPipeline, number: int, timestep: Tensor, values: dict[str, Any]
    ) -> dict[str, Tensor]:
        if all(one.left for one in self.batch):
            raise _LeftError
        stage, steps = values["stage"], pipe.num_timesteps
        rows = [row for row, one in enumerate(self.batch) if not one.left and one.wants(stage, number + 1, steps)]
        if stage == 1 and rows:
            images = pipe.generator.codec.decode(values["pred_original_sample"][rows]).float()
            self.last |= dict(zip(rows, images_to_pixels(images).cpu().numpy(), strict=True))
        for row in rows:
            self.batch[row].tell(Preview(pixels=self.last[row], step=number + 1, num_steps=steps, stage=stage))
        return {}
