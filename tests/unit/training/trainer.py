"""A short run over the small corpus, and one that is interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rag_diffusion.config import TrainConfig
from rag_diffusion.models.generator import Generator
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.tracking import NullTracker
from rag_diffusion.training.data import Batch, Batches
from rag_diffusion.training.loop import TrainResult, train

Neighbors = dict[str, dict[str, list[str]]]


class Trainer:
    """Trains a generator over the small corpus; `reset` gives it the weights that it began with."""

    def __init__(self, generator: Generator, corpus: Corpus, neighbors: Neighbors, config: TrainConfig) -> None:
        self.generator, self.corpus, self.neighbors, self.config = generator, corpus, neighbors, config
        self._start = {name: value.clone() for name, value in generator.unet.state_dict().items()}

    def reset(self) -> None:
        self.unload()
        self.generator.unet.load_state_dict(self._start)

    def unload(self) -> None:
        """Without the adapters of a run that was interrupted."""
        if getattr(self.generator.unet, "peft_config", None):
            self.generator.unet.unload_lora()

    def __call__(self, scratch: Path, batches: Batches | None = None, **changes: Any) -> TrainResult:
        torch.manual_seed(3)
        options = {key: changes.pop(key) for key in ("hooks", "tracker", "shard") if key in changes}
        config = TrainConfig.model_validate(self.config.model_dump() | changes)
        batches = batches or Batches(self.corpus, self.neighbors["train"], config, 3, seed=0)
        options = {"tracker": NullTracker()} | options
        return train(self.generator, batches, config, seed=0, scratch=scratch, **options)

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.generator.unet.state_dict().items()}


class StopAt(Batches):
    """Interrupts the run, as Ctrl-C would, when a step is asked for."""

    def __init__(self, corpus: Corpus, neighbors: dict[str, list[str]], config: TrainConfig, step: int) -> None:
        super().__init__(corpus, neighbors, config, 3, seed=0)
        self._last = step

    def parts(self, step: int, rows: Sequence[slice]) -> list[Batch]:
        if step == self._last:
            raise KeyboardInterrupt
        return super().parts(step, rows)
