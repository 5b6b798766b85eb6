"""Images of one variant for fixed prompts, batch by batch; finished batches outlive an interruption."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rag_diffusion import layout
from rag_diffusion.config import Config
from rag_diffusion.corpus.store import Corpus
from rag_diffusion.device import choose_device
from rag_diffusion.files import atomic_write, tree_hash
from rag_diffusion.models.load import load_generator
from rag_diffusion.models.neighbor_batch import NeighborBatch
from rag_diffusion.progress import Progress
from rag_diffusion.retrieval.neighbors import NeighborTable, PromptNeighbors
from rag_diffusion.sampling.attention import AttentionRecorder
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.training.checkpoint import fingerprint
from rag_diffusion.types import Prompt


def neighbors_of(variant: str, found: PromptNeighbors) -> tuple[str, ...]:
    """Pair ids that condition a prompt in a variant: none, random, retrieved or oracle."""
    shown = {"none": (), "random": found.random, "retrieved": found.retrieved, "oracle": found.oracle}
    return shown[variant]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Images (P, H, W, 3), and the attention (P, K + 1) of each to its neighbors and, last, to the null token."""

    pixels: NDArray[np.uint8]
    shares: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A generator at work on prompts of one corpus, as `config.sample` says.

    Attributes:
        root: the project, for its scratch folder.
        model: folder of the generator.
    """

    root: Path
    model: Path
    config: Config
    corpus: Corpus
    table: NeighborTable

    def draw(self, variant: str, prompts: Sequence[Prompt]) -> Drawn:
        """One image for each of P prompts; the same noise for every variant."""
        parts: list[Drawn] = []
        size = self.config.sample.batch_size
        with Progress(total=len(prompts), desc=f"drawing, {variant} neighbors", unit="img") as shown:
            for start in range(0, len(prompts), size):
                batch = prompts[start : start + size]
                named = fingerprint({"prompts": [asdict(prompt) for prompt in batch]})
                path = self._scratch / f"{variant}-{named}.npz"
                if not path.exists():
                    drawn = self._draw(variant, batch)
                    buffer = io.BytesIO()
                    np.savez(buffer, pixels=drawn.pixels, shares=drawn.shares)
                    atomic_write(path, buffer.getvalue())
                with np.load(path) as saved:
                    parts.append(Drawn(pixels=saved["pixels"], shares=saved["shares"]))
                shown.update(len(batch))
        return Drawn(
            pixels=np.concatenate([part.pixels for part in parts]),
            shares=np.concatenate([part.shares for part in parts]),
        )

    def _draw(self, variant: str, prompts: Sequence[Prompt]) -> Drawn:
        lists = [neighbors_of(variant, self.table.prompts[prompt.prompt_id]) for prompt in prompts]
        recorder = AttentionRecorder(batch=len(prompts), count=self.config.retrieval.num_neighbors)
        with recorder.listening(self._pipeline.unet):
            pixels = self._pipeline(
                [prompt.text for prompt in prompts],
                NeighborBatch.gather(self.corpus, lists) if any(lists) else None,
                [prompt.seed + self.config.seed for prompt in prompts],
                Guidance.from_config(self.config.sample),
                recorder=recorder,
            )
        return Drawn(pixels=pixels, shares=recorder.result().shares.numpy())

    @cached_property
    def _pipeline(self) -> RetrievalPipeline:
        generator = load_generator(self.model, choose_device(self.config.device))
        sample = self.config.sample
        return RetrievalPipeline(generator, sample.scheduler, sample.num_inference_steps, sample.precision)

    @cached_property
    def _scratch(self) -> Path:
        """Named after everything that decides a pixel but the prompts and the variant."""
        facts = {
            "model": tree_hash(self.model),
            "neighbors": tree_hash(self.root / layout.NEIGHBORS),
            "sample": self.config.sample.model_dump(exclude={"prompts", "variants"}),
            "seed": self.config.seed,
            "num_neighbors": self.config.retrieval.num_neighbors,
        }
        return self.root / layout.SCRATCH / f"sample-{fingerprint(facts)}"
