"""Prompts that are drawn at once, and what draws them: here, or on a machine that sees the project's folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rag_diffusion.arrays import Pixels
from rag_diffusion.config import Config, SampleConfig
from rag_diffusion.device import choose_device, keep_freed_memory
from rag_diffusion.errors import MixedBatchError, ModelError
from rag_diffusion.files import tree_hash
from rag_diffusion.models.codec import images_to_pixels
from rag_diffusion.models.load import load_generator
from rag_diffusion.models.neighbor_batch import Neighbor, neighbors_from
from rag_diffusion.retrieval.controls import shown_to
from rag_diffusion.retrieval.neighbor_table import PromptNeighbors
from rag_diffusion.sampling.cascade import enlarge, further_told
from rag_diffusion.sampling.cascade_folder import load_stages
from rag_diffusion.sampling.cascade_stages import CascadeStage, StageSettings, settings_of
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.output import as_arrays
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.provenance import Provenance
from rag_diffusion.sampling.schedule import RetrievalSchedule
from rag_diffusion.sampling.seeds import seeded
from rag_diffusion.sampling.style_palettes import StylePalettes
from rag_diffusion.spans import Span, recording
from rag_diffusion.store.pairs import Pairs
from rag_diffusion.store.shared_folder import open_pairs, same_files
from rag_diffusion.types import Prompt


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Images (P, H, W, 3), and where each came from."""

    pixels: Pixels
    provenance: list[Provenance]


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """P prompts that are drawn, or whose pictures are enlarged.

    Attributes:
        variant: as in `retrieval.controls`.
        prompts: P.
        neighbors: of each, as the table has them.
        begin: `image` and `strength` of the pipeline; empty begins with noise.
        drawn: pictures of the prompts that are enlarged; None: they are drawn.
    """

    variant: str
    prompts: Sequence[Prompt]
    neighbors: Sequence[PromptNeighbors]
    begin: dict[str, Any]
    drawn: Drawn | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchDrawer:
    """A generator at work on batches.

    Attributes:
        model: its folder.
        config: `sample` and `retrieval` say how it draws.
        corpus: of the neighbors.
    """

    model: Path
    config: Config
    corpus: Pairs

    def __call__(self, batch: Batch) -> tuple[Drawn, list[Span]]:
        """The pictures of a `batch`, and a tree of spans for each that was drawn."""
        neighbors = [self._neighbors(batch.variant, row) for row in batch.neighbors]
        return self._draw(batch, neighbors) if batch.drawn is None else (self._enlarge(batch.drawn, neighbors), [])

    def content(self, variant: str, row: PromptNeighbors) -> tuple[str, ...]:
        """Pair ids of the content neighbors of a prompt.

        Args:
            variant: as in `retrieval.controls`.
            row: of the prompt.
        """
        return shown_to(variant, row)[: self.config.retrieval.content]

    def style(self, variant: str, row: PromptNeighbors) -> tuple[str, ...]:
        """Pair ids of the style neighbors of a prompt, of every variant but that without neighbors.

        Args:
            variant: as in `retrieval.controls`.
            row: of the prompt.
        """
        return () if variant == "none" else row.style[: self.config.retrieval.style]

    @cached_property
    def further(self) -> list[tuple[CascadeStage, StageSettings]]:
        """The further stages of a cascade, with their settings."""
        settings = StageSettings.from_config(self.config.sample.upsampling)
        stages = load_stages(self.model, choose_device(self.config.device))
        return settings_of(stages, None, [settings] * len(stages))

    @cached_property
    def schedule(self) -> RetrievalSchedule:
        """How the lists of the table change over the steps; none of it is looked for again."""
        return replace(RetrievalSchedule.from_config(self.config.retrieval.schedule), query_again=())

    def _draw(self, batch: Batch, neighbors: list[list[Neighbor]]) -> tuple[Drawn, list[Span]]:
        try:
            return self._draw_at_once(batch, neighbors)
        except MixedBatchError:
            alone = [
                replace(batch, prompts=[one], neighbors=[row])
                for one, row in zip(batch.prompts, batch.neighbors, strict=True)
            ]
            each = [self._draw_at_once(one, [own]) for one, own in zip(alone, neighbors, strict=True)]
        pixels = np.concatenate([drawn.pixels for drawn, _ in each])
        origins = [origin for drawn, _ in each for origin in drawn.provenance]
        return Drawn(pixels=pixels, provenance=origins), [span for _, spans in each for span in spans]

    def _draw_at_once(self, batch: Batch, neighbors: list[list[Neighbor]]) -> tuple[Drawn, list[Span]]:
        with recording("sample") as span:
            drawn = self._pipeline(
                [prompt.text for prompt in batch.prompts],
                neighbors,
                guidance=Guidance.from_config(self.config.sample),
                num_inference_steps=self.config.sample.num_inference_steps,
                retrieval_schedule=self.schedule,
                generator=seeded([prompt.seed + self.config.seed for prompt in batch.prompts]),
                **batch.begin,
            )
        searched: dict[str, Any] = {"corpus_hash": self.corpus.hash, "data_sets": self.corpus.versions}
        origins = [replace(origin, variant=batch.variant, **searched) for origin in drawn.provenance]
        return Drawn(pixels=as_arrays(drawn.images), provenance=origins), [_trace(span, origin) for origin in origins]

    def _enlarge(self, drawn: Drawn, neighbors: list[list[Neighbor]]) -> Drawn:
        precision = self.config.sample.precision
        seeds = [origin.seed for origin in drawn.provenance if origin.seed is not None]
        texts = [origin.prompt for origin in drawn.provenance]
        images = enlarge(drawn.pixels, texts, seeds, self.further, neighbors=neighbors, precision=precision)
        origins = further_told(drawn.provenance, self.further, precision)
        return Drawn(pixels=images_to_pixels(images).numpy(), provenance=origins)

    def _neighbors(self, variant: str, row: PromptNeighbors) -> list[Neighbor]:
        names, scores = self.content(variant, row), dict(zip(row.retrieved, row.scores, strict=True))
        content = neighbors_from(self.corpus, names, [scores.get(name) for name in names])
        style = neighbors_from(self.corpus, self.style(variant, row), role="style")
        return [_weighted(neighbor, self.config.sample) for neighbor in (*content, *style)]

    @cached_property
    def _pipeline(self) -> RetrievalPipeline:
        generator = load_generator(self.model, choose_device(self.config.device))
        sample = self.config.sample
        pipeline = RetrievalPipeline(generator, scheduler=sample.scheduler, precision=sample.precision)
        pipeline.thresholding, pipeline.palettes = sample.thresholding, StylePalettes(pairs=self.corpus)
        pipeline.begin_strength = sample.begin_strength
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


@dataclass(frozen=True, kw_only=True)
class DrawBatches:
    """Draws batches wherever it is opened; see `engine.work.Work`.

    Attributes:
        root: the project, on every machine.
        model: folder of the generator.
        config: how it draws.
        corpus_hash, model_hash: what the project of every machine must have.
    """

    root: Path
    model: Path
    config: Config
    corpus_hash: str
    model_hash: str

    def open(self) -> Callable[[Batch], tuple[Drawn, list[Span]]]:
        """See `Work.open`.

        Raises:
            LineageError: the project of this machine has another corpus or model.
            ModelError: it has no model.
        """
        corpus = open_pairs(self.root, self.corpus_hash)
        if not self.model.is_dir():
            raise ModelError(
                f"{self.model}: expected a model, found none; let all machines see the same project folder"
            )
        same_files(self.model, self.model_hash, tree_hash(self.model))
        keep_freed_memory()
        return BatchDrawer(model=self.model, config=self.config, corpus=corpus)


def _weighted(neighbor: Neighbor, sample: SampleConfig) -> Neighbor:
    return replace(neighbor, weight_by_step=sample.weight_by_step, weight_by_map=sample.weight_by_map)


def _trace(batch: Span, origin: Provenance) -> Span:
    """What one image of a batch was asked, shown and looked at; its times are those of the batch."""
    query = Span(
        name="neighbors",
        kind="RETRIEVER",
        inputs={"query": origin.prompt},
        outputs=[
            {
                "page_content": neighbor.caption,
                "id": neighbor.pair_id,
                "metadata": {"score": neighbor.score, "attention": neighbor.attention, "licence": neighbor.licence},
            }
            for neighbor in origin.neighbors
        ],
        start=batch.start,
        end=batch.start,
    )
    inputs = {"prompt": origin.prompt, "variant": origin.variant, "seed": origin.seed}
    return replace(batch, inputs=inputs, outputs=origin.as_dict(), children=[query, *batch.children])
