"""Images of variants for fixed prompts, by this process or an engine; finished batches outlive an interruption."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rag_diffusion import layout
from rag_diffusion.arrays import Pixels
from rag_diffusion.config import Config
from rag_diffusion.engine.work import open_engine
from rag_diffusion.files import atomic_write, code_hash, fingerprint, tree_hash
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_batch import neighbors_from
from rag_diffusion.progress import Progress
from rag_diffusion.retrieval.neighbor_table import NeighborTable
from rag_diffusion.sampling.batches import Batch, BatchDrawer, DrawBatches, Drawn
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.output import as_arrays
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.provenance import Provenance
from rag_diffusion.sampling.seeds import seeded
from rag_diffusion.spans import Span
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.types import Prompt

DEGRADED = "real_degraded"  # the real image, noised and denoised with the retrieved neighbors


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """One image for each of P prompts; the same noise for every variant.

    Attributes:
        variant: as in `retrieval.controls`.
        prompts: P.
        pictures: (P, H, W, 3) to begin with, and a name of its own for `variant`; None begins with noise.
        strength: how far they are noised.
    """

    variant: str
    prompts: Sequence[Prompt]
    pictures: Pixels | None = None
    strength: float = 0.0


@dataclass(frozen=True, kw_only=True)
class VariantSampler:
    """A generator at work on prompts of one corpus, as `config.sample` says, by the engine of `config`.

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
        """One image for each of P prompts.

        Args:
            variant: as in `retrieval.controls`.
            prompts: P.
            pictures: (P, H, W, 3) to begin with, and a name of its own for `variant`; None begins with noise.
            strength: how far they are noised.
        """
        return self.draw_all([Asked(variant=variant, prompts=prompts, pictures=pictures, strength=strength)])[0]

    def draw_all(self, asked: Sequence[Asked]) -> list[Drawn]:
        """The images of each of those `asked` for; the batches of all of them are given to an engine at once."""
        return self._grouped([list(self._batches(one)) for one in asked], "drawing")

    def enlarge_all(self, asked: Sequence[Asked], drawn: Sequence[Drawn]) -> list[Drawn] | None:
        """Images through the further stages of the model's cascade; None where it has none.

        Args:
            asked: what was drawn.
            drawn: by `draw_all`, of these.
        """
        if not self._drawer.further:
            return None
        groups = [list(self._batches(one, pictures)) for one, pictures in zip(asked, drawn, strict=True)]
        return self._grouped(groups, "enlarging")

    def shown(self, variant: str, prompt: Prompt) -> tuple[str, ...]:
        """Pair ids of every neighbor of `prompt` in `variant`, content first."""
        row = self.table.prompts[prompt.prompt_id]
        return self._drawer.content(variant, row) + self._drawer.style(variant, row)

    def _batches(self, asked: Asked, drawn: Drawn | None = None) -> Iterator[Batch]:
        size = self.config.sample.batch_size
        for start in range(0, len(asked.prompts), size):
            prompts = asked.prompts[start : start + size]
            begin: dict[str, Any] = {}
            if asked.pictures is not None and drawn is None:
                begin = {"image": list(asked.pictures[start : start + size]), "strength": asked.strength}
            yield Batch(
                variant=asked.variant,
                prompts=prompts,
                neighbors=[self.table.prompts[prompt.prompt_id] for prompt in prompts],
                begin=begin,
                drawn=None if drawn is None else _part(drawn, slice(start, start + size)),
            )

    def _grouped(self, groups: Sequence[Sequence[Batch]], what: str) -> list[Drawn]:
        """The pictures of every group of batches, out of the scratch folder; what is not there is drawn first."""
        batches = [batch for group in groups for batch in group]
        paths = {id(batch): self._path(batch) for batch in batches}
        missing = [batch for batch in batches if not paths[id(batch)].exists()]
        total = sum(len(batch.prompts) for batch in batches)
        names = ", ".join(dict.fromkeys(batch.variant for batch in batches))
        with Progress(total=total, desc=f"{what}, {names} neighbors", unit="img") as shown:
            shown.update(total - sum(len(batch.prompts) for batch in missing))
            for batch, (drawn, traces) in zip(missing, self._results(missing), strict=True):
                _save(paths[id(batch)], drawn)
                self.traces.extend(traces)
                shown.update(len(batch.prompts))
        return [_joined([_load(paths[id(batch)]) for batch in group]) for group in groups]

    def _results(self, batches: Sequence[Batch]) -> Iterator[tuple[Drawn, list[Span]]]:
        engine = open_engine(self.config)
        if engine is None:
            return map(self._drawer, batches)
        return engine.map(
            DrawBatches(
                root=self.root,
                model=self.model,
                config=self.config,
                corpus_hash=self.corpus.hash,
                model_hash=tree_hash(self.model),
            ),
            batches,
        )

    def _path(self, batch: Batch) -> Path:
        """Where its pictures lie, or will."""
        if batch.drawn is not None:
            pictures = hashlib.sha256(batch.drawn.pixels.tobytes()).hexdigest()
            drawn_facts = [[origin.prompt, origin.seed] for origin in batch.drawn.provenance]
            named = fingerprint({"pictures": pictures, "facts": drawn_facts})
            return self._scratch / f"{batch.variant}-{named}-enlarged.npz"
        facts = {
            "prompts": [asdict(prompt) for prompt in batch.prompts],
            "neighbors": [self._drawer.content(batch.variant, row) for row in batch.neighbors],
            "style": [self._drawer.style(batch.variant, row) for row in batch.neighbors],
        }
        return self._scratch / f"{batch.variant}-{fingerprint(facts | _begin_facts(batch.begin))}.npz"

    @cached_property
    def _drawer(self) -> BatchDrawer:
        return BatchDrawer(model=self.model, config=self.config, corpus=self.corpus)

    @cached_property
    def _scratch(self) -> Path:
        """Named after everything that decides a pixel but the prompts and their neighbors."""
        facts = {
            "code": code_hash("models", "sampling"),
            "model": tree_hash(self.model),
            "corpus": self.corpus.hash,
            "sample": self.config.sample.model_dump(exclude={"prompts", "variants"}),
            "schedule": asdict(self._drawer.schedule),
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


def _part(drawn: Drawn, rows: slice) -> Drawn:
    return Drawn(pixels=drawn.pixels[rows], provenance=drawn.provenance[rows])


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
