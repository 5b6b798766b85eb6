"""Drawings of validation prompts, judged: what settings are chosen by, never by test prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rag_diffusion import layout
from rag_diffusion.config import Config
from rag_diffusion.errors import ModelError
from rag_diffusion.metrics.bootstrap import ClusterBootstrap
from rag_diffusion.metrics.judge import METRICS, Judge
from rag_diffusion.metrics.scoring import Bench
from rag_diffusion.sampling.drawing import VariantSampler
from rag_diffusion.types import Prompt


@dataclass(frozen=True, kw_only=True)
class ValidationPrompts:
    """Prompts of validation entities and who judges their drawings.

    Attributes:
        root: the project.
        bench: of these prompts.
        judge: of these prompts.
    """

    root: Path
    bench: Bench
    judge: Judge

    @property
    def prompts(self) -> Sequence[Prompt]:
        """P of them."""
        return self.bench.prompts

    @classmethod
    def open(cls, root: Path, config: Config, count: int | None = None) -> ValidationPrompts:
        """Read corpus, prompts and ruler.

        Args:
            root: the project.
            config: its parameters.
            count: prompts at most, evenly spread over the fixed third of them; None takes all.

        Raises:
            ModelError: the corpus is not one that the ruler can judge.
        """
        sample = config.sample.model_copy(update={"prompts": "validation"})
        bench = Bench.open(root, config.model_copy(update={"sample": sample}))
        if bench.reason is not None:
            raise ModelError(f"validation: expected the default corpus, got one that cannot be judged: {bench.reason}")
        if count is not None:
            fixed = [prompt for prompt in bench.prompts if prompt.default]
            bench = replace(bench, prompts=fixed[:: max(1, len(fixed) // count)][:count])
        looks = bench.ruler.look(bench.trunk, bench.corpus.pixels(bench.candidates), desc="look at the corpus")
        return cls(root=root, bench=bench, judge=bench.judge(looks.entity))

    def accuracies(self, config: Config, variant: str = "retrieved") -> dict[str, dict[str, float]]:
        """Interval of every metric of drawings made as `config.sample` and `config.retrieval` say."""
        drawing = VariantSampler(
            root=self.root,
            model=self.root / layout.MODEL,
            config=config,
            corpus=self.bench.corpus,
            table=self.bench.table,
        )
        pixels = drawing.draw(variant, self.prompts).pixels
        verdicts = self.judge.verdicts(self.bench.ruler.look(self.bench.trunk, pixels, desc="look at drawings"))
        bootstrap = ClusterBootstrap(
            [prompt.entity for prompt in self.prompts], draws=config.score.bootstrap_draws, seed=config.seed
        )
        return {metric: bootstrap.interval(verdicts.values(metric)).as_dict() for metric in METRICS}
