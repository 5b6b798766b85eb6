"""A short run over the small corpus, and how to make one."""

from __future__ import annotations

import pytest

from rag_diffusion.config import Config, TrainConfig
from rag_diffusion.models.generator import Generator
from rag_diffusion.store.corpus import Corpus
from tests.unit.training.trainer import Neighbors, Trainer


@pytest.fixture
def config(default_config: Config) -> TrainConfig:
    changes = {
        "steps": 6, "batch_size": 8, "group_size": 4, "warmup_steps": 2, "checkpoint_every": 3, "validate_every": 6,
        "learning_rate": 0.001, "precision": "fp32",
    }  # fmt: skip
    return TrainConfig.model_validate(default_config.pretrain.model_dump(exclude={"start"}) | changes)


@pytest.fixture
def trainer(tiny_generator: Generator, tiny_corpus: Corpus, tiny_neighbors: Neighbors, config: TrainConfig) -> Trainer:
    return Trainer(tiny_generator, tiny_corpus, tiny_neighbors, config)
