"""Images of one variant for fixed prompts, batch by batch; finished batches outlive an interruption."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rag_diffusion import layout
from rag_diffusion.arrays import Pixels
from rag_diffusion.config import Config
from rag_diffusion.device import choose_device
from rag_diffusion.files import atomic_write, code_hash, fingerprint, tree_hash
from rag_diffusion.models.codec import images_to_pixels
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.load import load_generator
from rag_diffusion.models.neighbor_batch import Neighbor, neighbors_from
from rag_diffusion.progress import Progress
from rag_diffusion.retrieval.controls import shown_to
from rag_diffusion.retrieval.neighbor_table import NeighborTable
from rag_diffusion.sampling.cascade import enlarge, further_told
from rag_diffusion.sampling.cascade_folder import load_stages
from rag_diffusion.sampling.cascade_stages import CascadeStage, StageSettings, settings_of
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.output import as_arrays
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.provenance import Provenance
from rag_diffusion.sampling.schedule import RetrievalSchedule
from rag_diffusion.sampling.seeds import seeded
from rag_diffusion.spans import Span, recording
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.types import Prompt

DEGRADED = "real_degraded"  # the real image, noised and denoised with the retrieved neighbors


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Images (P, H, W, 3), and where each came from."""

    pixels: Pixels
    provenance: list[Provenance]


@dataclass(frozen=True, kw_only=True)
class VariantSampler:
    """A generator at work on prompts of one corpus, as `config.sample` says.

    Attributes:
        root: the project, for its scratch folder.
        model: folder of the generator.
        traces: a tree of spans for each image that was drawn just now, not taken from the scratch folder.
    """

    root: Path
    model: Path
    config: Config
    corpus: Corpus
    table: NeighborTable
    traces: list[Span] = field(default_factory=list)

    def draw(
        self, variant: str, prompts: Sequence[Prompt], pictures: Pixels | None = None, strength: float = 0.0
    ) -> Drawn:
        """One image for each of P prompts; the same noise for every variant.

        Args:
            variant: as in `retrieval.controls`.
            prompts: P.
            pictures: (P, H, W, 3) to begin with, and a name of its own for `variant`; None begins with noise.
            strength: how far they are noised.
        """
        parts: list[Drawn] = []
        size = self.config.sample.batch_size
        with Progress(total=len(prompts), desc=f"drawing, {variant} neighbors", unit="img") as shown:
            for start in range(0, len(prompts), size):
                batch = prompts[start : start + size]
                begin: dict[str, Any] = {}
                if pictures is not None:
                    begin = {"image": list(pictures[start : start + size]), "strength": strength}
                shown_pairs = [self._names(variant, prompt) for prompt in batch]
                facts = {"prompts": [asdict(prompt) for prompt in batch], "neighbors": shown_pairs}
                facts["style"] = [self._style(variant, prompt) for prompt in batch]
                named = fingerprint(facts | _begin_facts(begin))
                path = self._scratch / f"{variant}-{named}.npz"
                if not path.exists():
                    _save(path, self._draw(variant, batch, begin))
                parts.append(_load(path))
                shown.update(len(batch))
        return _joined(parts)

    def enlarge(self, variant: str, prompts: Sequence[Prompt], drawn: Drawn) -> Drawn | None:
        """The images of P prompts through the further stages of the model's cascade; None where it has none.

        Args:
            variant: as in `retrieval.controls`.
            prompts: P.
            drawn: by `draw`, of these.
        """
        if not self._further:
            return None
        parts: list[Drawn] = []
        count, size = len(drawn.pixels), self.config.sample.batch_size
        with Progress(total=count, desc=f"enlarging, {variant} neighbors", unit="img") as shown:
            for start in range(0, count, size):
                batch = Drawn(
                    pixels=drawn.pixels[start : start + size], provenance=drawn.provenance[start : start + size]
                )
                pictures = hashlib.sha256(batch.pixels.tobytes()).hexdigest()
                facts = [[origin.prompt, origin.seed] for origin in batch.provenance]
                neighbors = [self._neighbors(variant, prompt) for prompt in prompts[start : start + size]]
                path = self._scratch / f"{variant}-{fingerprint({'pictures': pictures, 'facts': facts})}-enlarged.npz"
                if not path.exists():
                    _save(path, self._enlarge(batch, neighbors))
                parts.append(_load(path))
                shown.update(len(batch.pixels))
        return _joined(parts)

    def _enlarge(self, drawn: Drawn, neighbors: list[list[Neighbor]]) -> Drawn:
        precision = self.config.sample.precision
        seeds = [origin.seed for origin in drawn.provenance if origin.seed is not None]
        texts = [origin.prompt for origin in drawn.provenance]
        images = enlarge(drawn.pixels, texts, seeds, self._further, neighbors=neighbors, precision=precision)
        origins = further_told(drawn.provenance, self._further, precision)
        return Drawn(pixels=images_to_pixels(images).numpy(), provenance=origins)

    def _draw(self, variant: str, prompts: Sequence[Prompt], begin: dict[str, Any]) -> Drawn:
        with recording("sample") as batch:
            drawn = self._pipeline(
                [prompt.text for prompt in prompts],
                [self._neighbors(variant, prompt) for prompt in prompts],
                guidance=Guidance.from_config(self.config.sample),
                num_inference_steps=self.config.sample.num_inference_steps,
                retrieval_schedule=self._schedule,
                generator=seeded([prompt.seed + self.config.seed for prompt in prompts]),
                **begin,
            )
        searched: dict[str, Any] = {"corpus_hash": self.corpus.hash, "data_sets": self.corpus.versions}
        origins = [replace(origin, variant=variant, **searched) for origin in drawn.provenance]
        self.traces.extend(_trace(batch, origin) for origin in origins)
        return Drawn(pixels=as_arrays(drawn.images), provenance=origins)

    def shown(self, variant: str, prompt: Prompt) -> tuple[str, ...]:
        """Pair ids of every neighbor of `prompt` in `variant`, content first."""
        return self._names(variant, prompt) + self._style(variant, prompt)

    def _names(self, variant: str, prompt: Prompt) -> tuple[str, ...]:
        row = self.table.prompts[prompt.prompt_id]
        return shown_to(variant, row)[: self.config.retrieval.content]

    def _neighbors(self, variant: str, prompt: Prompt) -> list[Neighbor]:
        names, row = self._names(variant, prompt), self.table.prompts[prompt.prompt_id]
        scores = dict(zip(row.retrieved, row.scores, strict=True))
        content = neighbors_from(self.corpus, names, [scores.get(name) for name in names])
        style = neighbors_from(self.corpus, self._style(variant, prompt), role="style")
        sample = self.config.sample
        return [
            replace(neighbor, weight_by_step=sample.weight_by_step, weight_by_map=sample.weight_by_map)
            for neighbor in (*content, *style)
        ]

    def _style(self, variant: str, prompt: Prompt) -> tuple[str, ...]:
        """Style neighbors, of every variant but that without neighbors."""
        if variant == "none":
            return ()
        return self.table.prompts[prompt.prompt_id].style[: self.config.retrieval.style]

    @cached_property
    def _pipeline(self) -> RetrievalPipeline:
        generator = load_generator(self.model, choose_device(self.config.device))
        sample = self.config.sample
        pipeline = RetrievalPipeline(generator, scheduler=sample.scheduler, precision=sample.precision)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    @cached_property
    def _further(self) -> list[tuple[CascadeStage, StageSettings]]:
        settings = StageSettings.from_config(self.config.sample.upsampling)
        stages = load_stages(self.model, choose_device(self.config.device))
        return settings_of(stages, None, [settings] * len(stages))

    @cached_property
    def _schedule(self) -> RetrievalSchedule:
        """How the lists of the table change over the steps; none of it is looked for again."""
        return replace(RetrievalSchedule.from_config(self.config.retrieval.schedule), query_again=())

    @cached_property
    def _scratch(self) -> Path:
        """Named after everything that decides a pixel but the prompts and their neighbors."""
        facts = {
            "code": code_hash("models", "sampling"),
            "model": tree_hash(self.model),
            "corpus": self.corpus.hash,
            "sample": self.config.sample.model_dump(exclude={"prompts", "variants"}),
            "schedule": asdict(self._schedule),
            "seed": self.config.seed,
        }
        return self.root / layout.SCRATCH / f"sample-{fingerprint(facts)}"


def draw_texts(
    generator: Generator,
    corpus: Corpus,
    texts: Sequence[str],
    lists: Sequence[Sequence[str]],
    seeds: Sequence[int],
    *,
    precision: str,
    guidance: Guidance | None = None,
) -> Pixels:
    """Draw B texts in ten steps, for a look at a generator in training.

    Args:
        generator: draws.
        corpus: of the neighbors.
        texts: B.
        lists: pair ids of the neighbors of each.
        seeds: of the noise of each.
        precision: as `RetrievalPipeline` takes it.
        guidance: None is the default.

    Returns:
        (B, H, W, 3).
    """
    pipeline = RetrievalPipeline(generator, precision=precision)
    pipeline.set_progress_bar_config(disable=True)
    neighbors = [neighbors_from(corpus, names) for names in lists]
    drawn = pipeline(list(texts), neighbors, guidance=guidance, num_inference_steps=10, generator=seeded(seeds))
    return as_arrays(drawn.images)


def _begin_facts(begin: Mapping[str, Any]) -> dict[str, Any]:
    """What a drawing begins with, for a fingerprint."""
    if not begin:
        return {}
    pictures = np.stack(begin["image"])
    return {"strength": begin["strength"], "pictures": hashlib.sha256(pictures.tobytes()).hexdigest()}


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


def _joined(parts: Sequence[Drawn]) -> Drawn:
    return Drawn(
        pixels=np.concatenate([part.pixels for part in parts]),
        provenance=[origin for part in parts for origin in part.provenance],
    )


def _save(path: Path, drawn: Drawn) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, pixels=drawn.pixels, provenance=json.dumps([origin.as_dict() for origin in drawn.provenance]))
    atomic_write(path, buffer.getvalue())


def _load(path: Path) -> Drawn:
    with np.load(path) as saved:
        origins = json.loads(str(saved["provenance"]))
        return Drawn(pixels=saved["pixels"], provenance=[Provenance.from_dict(origin) for origin in origins])
