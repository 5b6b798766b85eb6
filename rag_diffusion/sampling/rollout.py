"""A clip frame by frame: each next one is drawn from the text and from frames that were made before.

    memory -> the last frames, the first, and those that look alike -> neighbors, beside pairs of the knowledge base
    text with the frame's place, neighbors, noise -> frame -> memory

The memory is bounded, and a frame leaves this module as soon as it is finished: a clip of any length takes the same
memory. A frame depends on the text, the seed, the frames before it and the pairs alone; so a clip that was stopped goes
on from its finished frames as if it had not been.

Source: WO2024072749A1 [0007], [0015], [0026], [0056].

Shapes: H/W picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from rag_diffusion.arrays import Pixels
from rag_diffusion.files import code_hash
from rag_diffusion.models.codec import images_to_pixels
from rag_diffusion.models.neighbor_batch import Neighbor, framed_pixels
from rag_diffusion.sampling.cascade import enlarge, further_told
from rag_diffusion.sampling.cascade_stages import settings_facts, settings_of
from rag_diffusion.sampling.clip_frames import (
    ClipFrame,
    GivenFrames,
    as_given,
    digest,
    frame_neighbors,
    size_of,
)
from rag_diffusion.sampling.frame_memory import FrameMemory
from rag_diffusion.sampling.frame_text import frame_prompt
from rag_diffusion.sampling.inputs import Given, by_prompt
from rag_diffusion.sampling.output import RetrievalPipelineOutput, as_arrays
from rag_diffusion.sampling.provenance import seen_digest
from rag_diffusion.sampling.request import computed_in, unusual
from rag_diffusion.sampling.rollout_settings import RolloutSettings
from rag_diffusion.sampling.safety import finished
from rag_diffusion.sampling.schedule import RetrievalSchedule
from rag_diffusion.sampling.seeds import MOST, seeded
from rag_diffusion.sampling.source import NeighborSource
from rag_diffusion.store.filters import Filter

if TYPE_CHECKING:
    from rag_diffusion.sampling.pipeline import OnStep, RetrievalPipeline

_SEED_STRIDE = 0xC11F_F4A3  # between the noise of a clip's frames, where it is not the same
_OF_RETRIEVAL = ("where", "exclude", "weight_by_step", "weight_by_map", "num_style_neighbors", "style")
_OF_DRAWING = (
    "height", "width", "guidance", "guidance_scale", "num_inference_steps", "negative_prompt", "clip_skip",
    "cross_attention_kwargs", "eta", "timesteps", "sigmas", "thresholding", "callback_on_step_end",
    "callback_on_step_end_tensor_inputs", "keep_pictures", "negative_neighbors",
)  # fmt: skip


class Kept(Protocol):
    """Where finished frames of a clip lie, see `clip_folder.ClipFolder`."""

    def read(self, number: int) -> ClipFrame | None:
        """The frame of a `number`; None where it is not there."""
        ...

    def write(self, frame: ClipFrame) -> None:
        """Keep a finished `frame`."""
        ...


class Rollout:
    """A clip that is drawn: iterating yields its frames in order, given ones first.

    Everything is checked, and pairs are retrieved, before the first frame is drawn.

    Args:
        pipeline: draws.
        prompt: what the clip shows, its motion among it.
        frames: that it begins with, as `clip_frames.as_given` has them; None draws the first from the text.
        settings: how frames are conditioned.
        neighbors: pairs by hand, in the forms of a pipeline's `neighbors`; None asks the retriever.
        memory: of the frames so far; None is a new one with the default rule.
        seed: of the noise.
        stages: of a cascade; None is all, 1 draws small. Frames condition each other as the first stage drew them.
        options: more of `RetrievalPipeline.__call__`, of drawing and retrieval.

    Raises:
        TypeError: an option that a clip does not have.
        ValueError: something does not fit.
        DataError: a file of the given frames is damaged.
        BlockedError: the prompt is on the blocklist.
    """

    def __init__(
        self,
        pipeline: RetrievalPipeline,
        prompt: str,
        frames: GivenFrames | None = None,
        settings: RolloutSettings | None = None,
        *,
        neighbors: Given | None = None,
        memory: FrameMemory | None = None,
        seed: int = 0,
        stages: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.prompt, self.settings, self.seed = _text(prompt), settings or RolloutSettings(), seed
        self._options = {name: value for name, value in (options or {}).items() if value is not None}
        if unknown := [name for name in self._options if name not in (*_OF_RETRIEVAL, *_OF_DRAWING)]:
            raise TypeError(f"{unknown[0]}: a clip has no such argument; see help(RetrievalPipeline.rollout)")
        self._given = [] if frames is None else as_given(frames)
        if len(self._given) >= self.settings.num_frames:
            raise ValueError(
                f"num_frames: expected more than the {len(self._given)} frames that are given, got "
                f"{self.settings.num_frames}; it counts all of the clip"
            )
        if pipeline.blocklist:
            pipeline.blocklist.check([self.prompt])
        self._finished = (pipeline.safety_checker, pipeline.watermark)
        self._pipeline = _bare(pipeline)
        self._first, self._later = pipeline.generator, pipeline.frames or pipeline.generator
        self._frames_drawing = pipeline.frames_drawing
        self._further = settings_of(pipeline.stages, stages, None)
        height, width = (self._options.get(name) for name in ("height", "width"))
        self._model = pipeline.generator.for_drawing(height, width, None, None)
        if self._further and self._model.size != (pipeline.generator.image_size,) * 2:
            raise ValueError(
                "height, width: expected those of training where a cascade enlarges; draw with stages=1, or leave out"
            )
        self._source = self._pair_source(pipeline, neighbors)
        self._pairs = self._source.first()[0] if self._num_pairs_asked else []
        self.memory = memory or FrameMemory(num_first=max(1, min(len(self._given), 32)))
        if len(self.memory):
            raise ValueError(f"memory: expected an empty one, got one of {len(self.memory)} frames")

    def __len__(self) -> int:
        return self.settings.num_frames

    @property
    def given(self) -> int:
        """Frames that were given."""
        return len(self._given)

    @property
    def pairs(self) -> Sequence[Neighbor]:
        """Pairs that frames look at beside each other, best first."""
        return self._pairs

    def watch(self, on_step: OnStep) -> None:
        """Let `on_step` be called after every denoising step of every frame, as `callback_on_step_end` is."""
        self._options["callback_on_step_end"] = on_step

    def facts(self) -> dict[str, Any]:
        """All that decides the pixels of the clip, JSON-able: what unfinished work must be of, to go on."""
        generator, scheduler, precision = self._model, self._pipeline.scheduler, self._pipeline.precision
        size = generator.size
        return {
            "prompt": self.prompt,
            "settings": asdict(self.settings),
            "seed": self.seed,
            "memory": [self.memory.capacity, self.memory.num_first, self.memory.num_last, self.memory.look.__name__],
            "options": {
                name: asdict(value) if hasattr(value, "__dataclass_fields__") else repr(value)
                for name, value in self._options.items()
                if not name.startswith("callback")
            },
            "frames_drawing": {name: repr(value) for name, value in self._frames_drawing.items()},
            "model": [self._first.fingerprint, self._later.fingerprint],
            "scheduler": [type(scheduler).__name__, unusual(scheduler, generator)],
            "precision": computed_in(precision, generator.device),
            "stages": [settings_facts(*one, precision) for one in self._further],
            "watermark": self._finished[1],
            "frames": [digest(framed_pixels(one.image, self.size)) for one in self._given],
            "pairs": [[one.name, seen_digest(one.pixels(size), one.caption)] for one in self._pairs],
            "code": code_hash("models", "sampling")[:16],
        }

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of finished frames."""
        return (self._further[-1][0].model.image_size,) * 2 if self._further else self._model.size

    def __iter__(self) -> Iterator[ClipFrame]:
        return self.run(None)

    def run(self, folder: Kept | None) -> Iterator[ClipFrame]:
        """The frames in order; leaving the iterator stops the clip.

        Args:
            folder: has the first ones where the clip was stopped before, and gets every other one; None keeps none.

        Yields:
            Frames, finished ones of the folder and given ones among them.

        Raises:
            ModelError: out of memory.
            DataError: a frame of the folder is damaged, or the disk is full.
        """
        whole = True  # so far the folder has every frame
        for number in range(1, self.settings.num_frames + 1):
            frame = folder.read(number) if folder is not None and whole else None
            whole = frame is not None
            if frame is None:
                frame = self._begun(number) if number <= len(self._given) else self._next(number)
                if frame is None:
                    return
                if folder is not None:
                    folder.write(frame)
            self.memory.add(frame.remembered())
            yield frame

    def shown(self, number: int) -> list[Neighbor]:
        """What a frame looks at: frames of the memory, then pairs.

        Args:
            number: of the frame that comes next.
        """
        rule = self.settings
        if not len(self.memory):
            return self._beside(rule.num_neighbors)
        frames = self.memory.select(
            num_last=rule.num_last, num_retrieved=rule.num_retrieved, with_first=rule.with_first,
            diversity=rule.diversity,
        )  # fmt: skip
        own = frame_neighbors(self.prompt, number, frames, rule.first_weight)
        return [*own, *self._beside(rule.num_pairs)]

    def _beside(self, count: int) -> list[Neighbor]:
        """Pairs that a frame looks at: all that are by hand, else so many, and those of style."""
        if self._source.given is not None:
            return self._pairs
        content = [pair for pair in self._pairs if pair.role == "content"]
        return [*content[:count], *(pair for pair in self._pairs if pair.role == "style")]

    def _next(self, number: int) -> ClipFrame | None:
        """The frame of a number, drawn; None where a callback ended it before its last step."""
        seed = self.seed if self.settings.same_noise else (self.seed + (number - 1) * _SEED_STRIDE) % MOST
        text = frame_prompt(self.prompt, number, self.settings.num_frames) if len(self.memory) else self.prompt
        self._pipeline.generator = self._later if len(self.memory) else self._first
        shown, how = self.shown(number), {n: v for n, v in self._options.items() if n in _OF_DRAWING}
        if len(self.memory):
            how = dict(self._frames_drawing) | how
        drawn = self._pipeline(text, shown, generator=seeded([seed]), stages=1, **how)
        (origin,) = drawn.provenance
        if origin.settings.get("interrupted"):
            return None
        small = as_arrays(drawn.images)[0]
        origin = replace(
            origin,
            corpus_hash=self._source.corpus_hashes[0],
            data_sets=self._source.data_sets[0],
            settings=origin.settings | self._told(number),
        )
        image = Image.fromarray(small if not self._further else self._enlarged(small, text, seed, shown))
        if self._further:
            (origin,) = further_told([origin], self._further, self._pipeline.precision)
        done = finished(
            RetrievalPipelineOutput(images=[image], provenance=[origin], heat_maps=drawn.heat_maps), *self._finished
        )
        return ClipFrame(
            number=number, pixels=as_arrays(done.images)[0], small=small, provenance=done.provenance[0], drawn_now=True
        )

    def _told(self, number: int) -> dict[str, Any]:
        """What the provenance of a frame says of its clip."""
        clip = {"prompt": self.prompt, "seed": self.seed, "frame": number, "num_frames": self.settings.num_frames}
        clip["given"] = self.given
        trouble = self._source.trouble[0]
        return {"clip": clip} | ({"trouble": list(trouble)} if trouble else {})

    def _begun(self, number: int) -> ClipFrame:
        """A frame that was given: as large as it came where it is large enough, else enlarged as drawn ones are."""
        given = self._given[number - 1]
        small, pixels = (framed_pixels(given.image, size) for size in (self._model.size, self.size))
        if self._further and max(size_of(given.image)) < self.size[0]:
            pixels = self._enlarged(small, self.prompt, self.seed, [])
        return ClipFrame(
            number=number,
            pixels=pixels,
            small=small,
            licence=given.licence,
            attribution=given.attribution,
            source=given.source,
        )

    def _enlarged(self, small: Pixels, text: str, seed: int, shown: Sequence[Neighbor]) -> Pixels:
        """A frame of the first stage through the further ones."""
        low = np.array(small)[None]
        images = enlarge(low, [text], [seed], self._further, neighbors=[shown], precision=self._pipeline.precision)
        pixels: Pixels = images_to_pixels(images).numpy()[0]
        return pixels

    @property
    def _num_pairs_asked(self) -> int:
        first = 0 if self._given else self.settings.num_neighbors
        return max(first, self.settings.num_pairs)

    def _pair_source(self, pipeline: RetrievalPipeline, neighbors: Given | None) -> NeighborSource:
        """Where pairs come from: retrieved once, by what the clip shows."""
        named = {
            "where": "where", "weight_by_step": "weight_by_step", "weight_by_map": "weight_by_map",
            "exclude": "exclude", "style": "style", "num_style_neighbors": "style_count",
        }  # fmt: skip
        own = {to: self._options[name] for name, to in named.items() if name in self._options}
        alone = neighbors is None and pipeline.retriever is None
        return NeighborSource(
            prompts=[self.prompt],
            images_per_prompt=1,
            given=[] if alone else None if neighbors is None else by_prompt(neighbors, [self.prompt])[0],
            retriever=pipeline.retriever,
            count=self._num_pairs_asked,
            schedule=RetrievalSchedule(),
            **({"exclude": None, "where": Filter()} | ({} if alone else own)),
        )


def _text(prompt: str) -> str:
    """What a clip shows.

    Raises:
        ValueError: it is no text, or empty.
    """
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"prompt: expected a text that says what the clip shows, got {prompt!r}")
    return prompt.strip()


def _bare(pipeline: RetrievalPipeline) -> RetrievalPipeline:
    """The same pipeline without what finished pictures go through and begin with, so that no frame inherits it.

    And without a palette: colours chosen anew for each frame would flicker.
    """
    bare = copy(pipeline)
    bare.safety_checker, bare.watermark, bare.thresholding, bare.begin_strength = None, "", "static", 1.0
    bare.set_progress_bar_config(disable=True)
    return bare
