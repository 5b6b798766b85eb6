"""Drawings of validation prompts, judged: what settings are chosen by, never by test prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rag_diffusion import layout
from rag_diffusion.arrays import Pixels
from rag_diffusion.config import Config
from rag_diffusion.errors import ModelError
from rag_diffusion.metrics.judge import METRICS, Judge, Verdicts
from rag_diffusion.metrics.scoring import Bench, entity_bootstrap
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

    def verdicts(self, pixels: Pixels) -> Verdicts:
        """Verdicts on drawings `pixels` (P, H, W, 3), one for each prompt and in their order."""
        return self.judge.verdicts(self.bench.ruler.look(self.bench.trunk, pixels, desc="look at drawings"))

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
        bench = bench.with_prototypes()
        looks = bench.ruler.look(bench.trunk, bench.corpus.pixels(bench.candidates), desc="look at the corpus")
        return cls(root=root, bench=bench, judge=bench.judge(looks.entity))

    def accuracies(self, config: Config, variant: str = "retrieved") -> dict[str, dict[str, float]]:
        """Draw and judge.

        Args:
            config: its `sample` and `retrieval` say how.
            variant: as in `retrieval.controls`.

        Returns:
            Metric -> mean and interval, as `Interval.as_dict` has it.
        """
        drawing = VariantSampler(
            root=self.root,
            model=self.root / layout.MODEL,
            config=config,
            corpus=self.bench.corpus,
            table=self.bench.table,
        )
        verdicts = self.verdicts(drawing.draw(variant, self.prompts).pixels)
        bootstrap = entity_bootstrap(self.prompts, config)
        return {metric: bootstrap.interval(verdicts.values(metric)).as_dict() for metric in METRICS}
