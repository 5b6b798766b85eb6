"""The stage `sample` by workers of a cluster: the pictures of one process, first stage and enlarged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rag_diffusion import layout
from rag_diffusion.config import Config, RayConfig
from rag_diffusion.errors import LineageError, ModelError
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.load import save_generator
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.sampling.batches import DrawBatches
from rag_diffusion.sampling.cascade_folder import save_stages
from rag_diffusion.sampling.cascade_stages import CascadeStage, StageSettings
from rag_diffusion.spans import Span
from rag_diffusion.stages import sample
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.tracking import NullTracker
from rag_diffusion.training.card import write_card
from tests.unit.sampling.cascades import small_stage


@pytest.mark.slow
def test_a_cluster_draws_the_pictures_of_one_process(
    project: Path, scoring_config: Config, tiny_generator: Generator, ray_config: RayConfig
) -> None:
    model = project / layout.MODEL
    model.mkdir()
    save_generator(tiny_generator, model)
    save_stages([CascadeStage(model=small_stage(tiny_generator.text_encoder), settings=StageSettings())], model)
    write_card(model, {"train_entities": []})
    few = {"num_inference_steps": 2, "variants": ["none", "retrieved"], "batch_size": 3, "precision": "fp32"}
    few["upsampling"] = scoring_config.sample.upsampling.model_copy(update={"num_inference_steps": 1})
    config = scoring_config.model_copy(update={"sample": scoring_config.sample.model_copy(update=few)})
    alone, traces = drawn(project, config)
    together, others = drawn(project, config.model_copy(update={"engine": "ray", "ray": ray_config}))
    assert together == alone
    assert others == traces > 0


class Traced(NullTracker):
    """Counts traces."""

    traces = 0

    def log_traces(self, traces: Sequence[Span]) -> None:
        self.traces += len(traces)


def drawn(root: Path, config: Config) -> tuple[Any, int]:
    """Table and provenance of the samples, and how many of them were traced."""
    shutil.rmtree(root / layout.SCRATCH, ignore_errors=True)
    tracker = Traced()
    sample.run(StageContext(config=config, root=root, tracker=tracker))
    folder = root / layout.SAMPLES
    table = pq.read_table(folder / "samples.parquet").to_pylist()
    return (table, json.loads((folder / "provenance.json").read_text())), tracker.traces


def test_old_weights_on_a_machine_are_refused(tiny_corpus: Corpus, default_config: Config, tmp_path: Path) -> None:
    root, model = tiny_corpus.path.parents[1], tmp_path / "model"
    work = DrawBatches(root=root, model=model, config=default_config, corpus_hash=tiny_corpus.hash, model_hash="0" * 64)
    with pytest.raises(ModelError, match="expected a model, found none; let all machines see the same project folder"):
        work.open()
    model.mkdir()
    with pytest.raises(LineageError, match="model: expected the files with hash 0000.*this machine has old ones"):
        work.open()
