"""Scores in the course of a training run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rag_diffusion.config import Config
from rag_diffusion.errors import ConfigError
from rag_diffusion.metrics import validation_scores
from rag_diffusion.metrics.scoring import Bench
from rag_diffusion.metrics.validation_scores import ValidationScores
from rag_diffusion.metrics.variants import real_rows
from rag_diffusion.models.generator import Generator
from tests.unit.tracked import RecordingTracker


@pytest.mark.slow
def test_drawings_of_validation_prompts_are_judged_by_step(
    project: Path, scoring_config: Config, tiny_generator: Generator
) -> None:
    tracker = RecordingTracker()
    scores = ValidationScores(project, scoring_config, tracker, "finetune")
    assert {prompt.split for prompt in scores.validation.prompts} == {"validation"}
    assert 0 < len(scores.validation.prompts) <= 24
    scores(tiny_generator, 40)
    scores(tiny_generator, 80)
    (first, logged), (second, again) = tracker.metrics
    assert (first, second) == (40, 80)
    assert logged.keys() == {f"validation/{name}" for name in ("joint", "entity", "style", "style_check")}
    assert logged == again, "the same noise"
    assert all(0 <= value <= 1 for value in logged.values())


def test_a_perfect_generator_scores_well_and_noise_does_not(
    project: Path, scoring_config: Config, tiny_generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = RecordingTracker()
    scores = ValidationScores(project, scoring_config, tracker, "finetune")
    corpus = scores.validation.bench.corpus
    real = corpus.pixels(real_rows(corpus, scores.validation.prompts))
    for pixels in (real, np.random.default_rng(0).integers(0, 256, real.shape, dtype=np.uint8)):
        monkeypatch.setattr(validation_scores, "draw_texts", lambda *_, pixels=pixels, **__: pixels)
        scores(tiny_generator, 1)
    (_, good), (_, bad) = tracker.metrics
    assert good["validation/joint"] > 0.5 > bad["validation/joint"] + 0.2


def test_a_corpus_that_the_ruler_cannot_judge_is_told_at_once(
    project: Path, scoring_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag_diffusion.metrics.scoring.why_not_judged", lambda *_: "it knows other styles")
    with pytest.raises(ConfigError, match="finetune.score_every: .*expected .*: it knows other .*set it to 0"):
        ValidationScores(project, scoring_config, RecordingTracker(), "finetune")


def test_a_prompt_whose_neighbors_leave_no_prototypes_is_left_out_and_named(
    project: Path, scoring_config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    sample = scoring_config.sample.model_copy(update={"prompts": "validation"})
    bench = Bench.open(project, scoring_config.model_copy(update={"sample": sample}))
    assert bench.with_prototypes() is bench
    victim, pairs = bench.prompts[0], bench.corpus.table
    same = pairs.loc[pairs["entity"] == victim.entity, "pair_id"].tolist()
    shown = replace(bench.table.prompts[victim.prompt_id], oracle=tuple(same))
    bench = replace(bench, table=replace(bench.table, prompts=bench.table.prompts | {victim.prompt_id: shown}))
    kept = bench.with_prototypes()
    assert [prompt.prompt_id for prompt in kept.prompts] == [prompt.prompt_id for prompt in bench.prompts[1:]]
    assert f"1 of {len(bench.prompts)} prompts are left out" in caplog.text
    assert caplog.text.strip().endswith(victim.prompt_id)
    kept.judge(bench.ruler.look(bench.trunk, bench.corpus.pixels(bench.candidates)).entity)
