"""Scores in the course of a training: drawings of validation prompts, judged every so many steps."""

from __future__ import annotations

import logging
from pathlib import Path

from rag_diffusion.config import Config
from rag_diffusion.errors import ConfigError, ModelError
from rag_diffusion.metrics.judge import METRICS
from rag_diffusion.metrics.validation_prompts import ValidationPrompts
from rag_diffusion.models.generator import Generator
from rag_diffusion.sampling.drawing import draw_texts
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.tracking import Tracker

_LOG = logging.getLogger(__name__)

_SCORED = 24  # prompts


class ValidationScores:
    """A training hook that judges drawings of 24 validation prompts, of entities never trained on.

    It logs the shares that the ruler recognises as the entity, the style and both: a coarse signal, whose standard
    error is up to .10. The table of a report is the stage `score`'s.

    Args:
        root: the project.
        config: its parameters.
        tracker: gets the scores.
        section: of params.yaml, for the message.

    Raises:
        ConfigError: the ruler cannot judge this corpus.
    """

    def __init__(self, root: Path, config: Config, tracker: Tracker, section: str) -> None:
        self._config, self._tracker = config, tracker
        try:
            self.validation = ValidationPrompts.open(root, config, _SCORED)
        except ModelError as error:
            raise ConfigError(f"{section}.score_every: {error}; set it to 0") from None

    def __call__(self, generator: Generator, step: int) -> dict[str, float]:
        """Draw with retrieved neighbors by `generator`, judge, and log as `validation/<metric>` at `step`.

        Returns:
            The scores by metric, 0 to 1.
        """
        bench, prompts, sample = self.validation.bench, self.validation.prompts, self._config.sample
        pixels = draw_texts(
            generator,
            bench.corpus,
            [prompt.text for prompt in prompts],
            [bench.table.prompts[prompt.prompt_id].retrieved for prompt in prompts],
            [prompt.seed + self._config.seed for prompt in prompts],
            precision=sample.precision,
            guidance=Guidance.from_config(sample),
        )
        verdicts = self.validation.verdicts(pixels)
        scores = {metric: float(verdicts.values(metric).mean()) for metric in METRICS}
        self._tracker.log_metrics({f"validation/{name}": value for name, value in scores.items()}, step)
        _LOG.info("step %d: %s", step, ", ".join(f"{name} {value:.3f}" for name, value in scores.items()))
        return scores
