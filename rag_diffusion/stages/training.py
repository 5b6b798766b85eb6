"""What the stages `pretrain` and `finetune` share: batches, probe, validation pictures, loss table, result folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rag_diffusion import layout
from rag_diffusion.config import TrainConfig
from rag_diffusion.corpus.store import Corpus
from rag_diffusion.files import atomic_dir, atomic_write
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.load import save_generator
from rag_diffusion.models.neighbor_batch import neighbors_from
from rag_diffusion.retrieval.neighbors import NeighborTable
from rag_diffusion.sampling.inputs import seeded
from rag_diffusion.sampling.pipeline import RetrievalPipeline, as_arrays
from rag_diffusion.stages.context import StageContext
from rag_diffusion.training.card import make_card, write_card
from rag_diffusion.training.checkpoint import fingerprint
from rag_diffusion.training.data import Batches
from rag_diffusion.training.loop import TrainResult, train
from rag_diffusion.training.validation import make_probe

_PROBE_SIZE = 48
_PICTURES, _PICTURE_STEPS = 8, 10


def run_training(
    ctx: StageContext,
    name: str,
    generator: Generator,
    config: TrainConfig,
    corpus: Corpus,
    table: NeighborTable,
    *,
    fingerprint_of: Mapping[str, Any],
    base: dict[str, Any] | None = None,
) -> tuple[TrainResult, dict[str, Any]]:
    """Train and describe; progress and pictures go to the tracker.

    Returns:
        The result, and its card.
    """
    count = ctx.config.retrieval.num_neighbors
    probe = (
        make_probe(generator, corpus, table.validation, count, _PROBE_SIZE, ctx.config.seed)
        if table.validation
        else None
    )
    length = {"steps", "max_minutes", "checkpoint_every", "validate_every"}
    facts = dict(fingerprint_of) | {
        "stage": name,
        "corpus": corpus.hash,
        "seed": ctx.config.seed,
        "num_neighbors": count,
    }
    scratch = ctx.root / layout.SCRATCH / f"{name}-{fingerprint(facts | config.model_dump(exclude=length))}"
    ctx.tracker.log_dataset("corpus", corpus.hash, layout.CORPUS)
    ctx.tracker.set_tags({"scratch": scratch.name})
    draw = _pictures(ctx, corpus, table.validation)
    batches = Batches(corpus, table.training, config, count, ctx.config.seed)
    result = train(
        generator,
        batches,
        config,
        seed=ctx.config.seed,
        scratch=scratch,
        tracker=ctx.tracker,
        probe=probe,
        on_validate=draw,
    )
    settings = {
        "model": ctx.config.model.model_dump(),
        name: config.model_dump(),
        "num_neighbors": count,
        "seed": ctx.config.seed,
    }
    return result, make_card(corpus, table.training, result, settings, base=base)


def save_model(folder: Path, generator: Generator, card: dict[str, Any]) -> None:
    """Write weights and card as one folder, or not at all."""
    with atomic_dir(folder) as beside:
        save_generator(generator, beside)
        write_card(beside, card)


def write_losses(path: Path, result: TrainResult) -> None:
    """The loss curve as CSV: step, loss (mean over the last ten steps), neighbor gains where they were measured."""
    buffer = io.StringIO()
    gains = {row["step"]: row for row in result.gains}
    names = sorted({name for row in result.gains for name in row} - {"step", "seconds"})
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["step", "loss", *names])
    for number, (step, _) in enumerate(result.losses):
        recent = [loss for _, loss in result.losses[max(0, number - 9) : number + 1]]
        row = gains.get(step, {})
        writer.writerow(
            [
                step,
                f"{sum(recent) / len(recent):.5f}",
                *(f"{row[name]:.5f}" if name in row else "" for name in names),
            ]
        )
    atomic_write(path, buffer.getvalue())


def _pictures(ctx: StageContext, corpus: Corpus, neighbors: Mapping[str, Sequence[str]]) -> Any:
    """A callback that draws a few validation captions and logs a grid: neighbors above, the drawing below."""
    names = sorted(neighbors)
    chosen = [names[number] for number in np.random.default_rng(ctx.config.seed).permutation(len(names))[:_PICTURES]]
    lists = [list(neighbors[name][: ctx.config.retrieval.num_neighbors]) for name in chosen]
    captions = corpus.table["caption"].iloc[corpus.rows(chosen)].tolist()

    def draw(generator: Generator, step: int) -> None:
        if not chosen:
            return
        pipeline = RetrievalPipeline(generator, precision=ctx.config.sample.precision)
        pipeline.set_progress_bar_config(disable=True)
        shown = [neighbors_from(corpus, names) for names in lists]
        seeds = seeded(range(len(chosen)))
        drawn = pipeline(captions, shown, num_inference_steps=_PICTURE_STEPS, generator=seeds)
        ctx.tracker.log_image(picture_grid(corpus, lists, as_arrays(drawn.images)), "validation", step)

    return draw


def picture_grid(corpus: Corpus, lists: Sequence[Sequence[str]], images: np.ndarray) -> Image.Image:
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
