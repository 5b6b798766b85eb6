"""What a generator in training can do, from time to time: pictures of validation captions, scores on prompts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np
from PIL import Image

from rag_diffusion.arrays import Pixels
from rag_diffusion.errors import ConfigError
from rag_diffusion.metrics.judge import METRICS, Judge
from rag_diffusion.metrics.scoring import Bench
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_batch import neighbors_from
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.output import as_arrays
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.seeds import seeded
from rag_diffusion.store.corpus import Corpus

_LOG = logging.getLogger(__name__)

_PICTURES, _STEPS = 8, 10
_SCORED = 24  # prompts

Preview = Callable[[Generator, int], Mapping[str, float] | None]


def draw(
    ctx: StageContext,
    generator: Generator,
    corpus: Corpus,
    texts: Sequence[str],
    lists: Sequence[Sequence[str]],
    seeds: Sequence[int],
    guidance: Guidance | None = None,
) -> Pixels:
    """Draw B texts with few steps, (B, H, W, 3).

    Args:
        ctx: its `sample` section says how precisely.
        generator: the averaged one of a run.
        corpus: of the neighbors.
        texts: B.
        lists: pair ids of the neighbors of each.
        seeds: of the noise.
        guidance: None is the default.
    """
    pipeline = RetrievalPipeline(generator, precision=ctx.config.sample.precision)
    pipeline.set_progress_bar_config(disable=True)
    shown = [neighbors_from(corpus, names) for names in lists]
    drawn = pipeline(list(texts), shown, guidance=guidance, num_inference_steps=_STEPS, generator=seeded(list(seeds)))
    return as_arrays(drawn.images)


def pictures(ctx: StageContext, corpus: Corpus, neighbors: Mapping[str, Sequence[str]]) -> Preview:
    """A preview that draws a few validation captions and logs a grid: neighbors above, the drawing below."""
    names = sorted(neighbors)
    chosen = [names[number] for number in np.random.default_rng(ctx.config.seed).permutation(len(names))[:_PICTURES]]
    lists = [list(neighbors[name][: ctx.config.retrieval.content]) for name in chosen]
    captions = corpus.cells("caption", corpus.rows(chosen))

    def preview(generator: Generator, step: int) -> None:
        if chosen:
            images = draw(ctx, generator, corpus, captions, lists, range(len(chosen)))
            ctx.tracker.log_image(picture_grid(corpus, lists, images), "validation", step)

    return preview


class ValidationScores:
    """A preview that judges drawings of 24 validation prompts, of entities never trained on, with retrieved neighbors.

    It logs the shares that the ruler recognises as the entity, the style and both: a coarse signal, whose standard
    error is up to .10. The table of a report is the stage `score`'s.

    Args:
        ctx: of the stage.
        section: of params.yaml, for the message.

    Raises:
        ConfigError: the ruler cannot judge this corpus.
    """

    def __init__(self, ctx: StageContext, section: str) -> None:
        self._ctx = ctx
        sample = ctx.config.sample.model_copy(update={"prompts": "validation"})
        self._bench = Bench.open(ctx.root, ctx.config.model_copy(update={"sample": sample}))
        if self._bench.reason is not None:
            raise ConfigError(
                f"{section}.score_every: expected a corpus that the ruler can judge, but {self._bench.reason}; "
                "set it to 0"
            )
        prompts = self._bench.prompts
        self._prompts = prompts[:: max(1, len(prompts) // _SCORED)][:_SCORED]

    def __call__(self, generator: Generator, step: int) -> dict[str, float]:
        """Draw, judge, log as `validation/<metric>` and return the scores."""
        bench = self._bench
        shown = [bench.table.prompts[prompt.prompt_id].retrieved for prompt in self._prompts]
        pixels = draw(
            self._ctx,
            generator,
            bench.corpus,
            [prompt.text for prompt in self._prompts],
            shown,
            [prompt.seed + self._ctx.config.seed for prompt in self._prompts],
            Guidance.from_config(self._ctx.config.sample),
        )
        verdicts = self._judge.verdicts(bench.ruler.look(bench.trunk, pixels, desc="look at validation drawings"))
        scores = {metric: float(verdicts.values(metric).mean()) for metric in METRICS}
        self._ctx.tracker.log_metrics({f"validation/{name}": value for name, value in scores.items()}, step)
        _LOG.info("step %d: %s", step, ", ".join(f"{name} {value:.3f}" for name, value in scores.items()))
        return scores

    @cached_property
    def _judge(self) -> Judge:
        bench = self._bench
        real = bench.corpus.pixels(bench.candidates)
        looks = bench.ruler.look(bench.trunk, real, desc="look at validation pairs")
        return bench.judge(looks.entity, self._prompts)


def picture_grid(corpus: Corpus, lists: Sequence[Sequence[str]], images: Pixels) -> Image.Image:
    """One column an image: its neighbors, then the drawing."""
    rows = max(len(names) for names in lists) + 1
    side = images.shape[1]
    grid = np.full((rows * side, len(lists) * side, 3), 255, dtype=np.uint8)
    for column, names in enumerate(lists):
        place = slice(column * side, (column + 1) * side)
        for row, pixels in enumerate(corpus.pixels(corpus.rows(names))):
            grid[row * side : (row + 1) * side, place] = pixels
        grid[-side:, place] = images[column]
    return Image.fromarray(grid)
