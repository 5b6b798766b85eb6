"""Scores and pictures in the course of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL.Image import Image

from rag_diffusion import layout
from rag_diffusion.config import Config
from rag_diffusion.errors import ConfigError
from rag_diffusion.metrics.variants import real_rows
from rag_diffusion.models.generator import Generator
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.tracking import NullTracker
from rag_diffusion.training import previews
from rag_diffusion.training.previews import ValidationScores, pictures


class Told(NullTracker):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.metrics: list[tuple[int | None, dict[str, float]]] = []
        self.images: list[tuple[str, int | None, tuple[int, int]]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.metrics.append((step, dict(metrics)))

    def log_image(self, image: Image, name: str, step: int | None = None) -> None:
        self.images.append((name, step, image.size))


@pytest.fixture
def context(project: Path, scoring_config: Config) -> StageContext:
    return StageContext(config=scoring_config, root=project, tracker=Told())


@pytest.mark.slow
def test_drawings_of_validation_prompts_are_judged_by_step(context: StageContext, tiny_generator: Generator) -> None:
    scores = ValidationScores(context, "finetune")
    assert {prompt.split for prompt in scores._prompts} == {"validation"}
    assert len(scores._prompts) <= 24
    scores(tiny_generator, 40)
    scores(tiny_generator, 80)
    (first, found), (second, again) = context.tracker.metrics
    assert (first, second) == (40, 80)
    assert found.keys() == {f"validation/{name}" for name in ("joint", "entity", "style", "style_check")}
    assert found == again, "the same noise"
    assert all(0 <= value <= 1 for value in found.values())


def test_a_perfect_generator_scores_well_and_noise_does_not(
    context: StageContext, tiny_generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = ValidationScores(context, "finetune")
    corpus = Corpus.open(context.root / layout.CORPUS)
    real = corpus.pixels(real_rows(corpus, scores._prompts))
    for pixels in (real, np.random.default_rng(0).integers(0, 256, real.shape, dtype=np.uint8)):
        monkeypatch.setattr(previews, "draw", lambda *_, pixels=pixels: pixels)
        scores(tiny_generator, 1)
    (_, good), (_, bad) = context.tracker.metrics
    assert good["validation/joint"] > 0.5 > bad["validation/joint"] + 0.2


def test_a_corpus_that_the_ruler_cannot_judge_is_told_at_once(
    context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag_diffusion.metrics.scoring.why_not_judged", lambda *_: "it knows other styles")
    with pytest.raises(ConfigError, match="finetune.score_every: expected .* but it knows other .*set it to 0"):
        ValidationScores(context, "finetune")


def test_pictures_show_neighbors_above_the_drawing(
    context: StageContext,
    tiny_generator: Generator,
    tiny_corpus: Corpus,
    tiny_neighbors: dict[str, dict[str, list[str]]],
) -> None:
    pictures(context, tiny_corpus, tiny_neighbors["validation"])(tiny_generator, 30)
    assert context.tracker.images == [("validation", 30, (8 * 64, 4 * 64))]
    pictures(context, tiny_corpus, {})(tiny_generator, 60)
    assert len(context.tracker.images) == 1
