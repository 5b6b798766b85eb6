"""The stages that draw and judge by workers of a cluster: the numbers of one process."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from rag_diffusion import layout
from rag_diffusion.config import Config, RayConfig
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.load import save_generator
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.stages import embed, evaluate, index, score_base, sweep
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.training.card import write_card
from tests.unit.engine.projects import context, write_encoder
from tests.unit.tracked import RecordingTracker

EVALUATION = f"{layout.EVALUATED}/faithfulness.json"


@pytest.fixture
def few(scoring_config: Config) -> Config:
    """Few steps, prompts and points."""
    config = scoring_config
    sections = {
        "sample": {"num_inference_steps": 2, "batch_size": 4, "precision": "fp32"},
        "sweep": {"num_prompts": 12},
        "evaluate": {
            "prompts": "default", "curve_text_scales": [], "curve_neighbor_scales": [2.0], "curve_prompts": 2,
            "degraded_strength": 1.0, "shown": 1,
        },
    }  # fmt: skip
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=values) for name, values in sections.items()}
    )


@pytest.fixture
def ready(project: Path, tiny_generator: Generator) -> Path:
    """The project with a base and a model."""
    for name in (layout.MODEL, layout.PRETRAINED):
        folder = project / name
        folder.mkdir(parents=True)
        save_generator(tiny_generator, folder)
        write_card(folder, {"train_entities": []})
    return project


def judged(root: Path, config: Config, stage: ModuleType, report: str) -> tuple[str, dict[str, bytes]]:
    """What a stage reports, and all that it draws; nothing is kept of what was drawn before."""
    shutil.rmtree(root / layout.SCRATCH, ignore_errors=True)
    stage.run(StageContext(config=config, root=root, tracker=RecordingTracker(), item="joint-3"))
    drawn = {path.name: np.load(path)["pixels"].tobytes() for path in (root / layout.SCRATCH).rglob("*.npz")}
    return (root / report).read_text(encoding="utf-8"), drawn


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "report"),
    [(sweep, sweep.report_of("joint-3")), (score_base, layout.PRETRAINED_SCORES), (evaluate, EVALUATION)],
    ids=["sweep", "score_base", "evaluate"],
)
def test_a_cluster_draws_what_one_process_judges(
    stage: ModuleType, report: str, ready: Path, few: Config, ray_config: RayConfig
) -> None:
    if stage is evaluate:  # looks for neighbors of two entities
        write_encoder(ready, Corpus.open(ready / layout.CORPUS))
        for earlier in (embed, index):
            earlier.run(context(ready, few))
    alone = judged(ready, few, stage, report)
    together = judged(ready, few.model_copy(update={"engine": "ray", "ray": ray_config}), stage, report)
    assert together == alone
    assert len(alone[1]) > 1
