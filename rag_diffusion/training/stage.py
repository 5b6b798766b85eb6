"""What the stages `pretrain` and `finetune` share: batches, probe, previews, loss table, result folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from rag_diffusion import layout
from rag_diffusion.config import TrainConfig
from rag_diffusion.files import atomic_dir, atomic_write, fingerprint, tree_hash
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.load import save_generator
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.retrieval.neighbor_table import NeighborTable
from rag_diffusion.sampling.cascade_folder import save_stages
from rag_diffusion.sampling.cascade_stages import CascadeStage
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.training.card import make_card, write_card
from rag_diffusion.training.data import Batches
from rag_diffusion.training.loop import Hook, TrainResult, train
from rag_diffusion.training.previews import pictures
from rag_diffusion.training.validation import make_probe

_PROBE_SIZE = 48
_LENGTH = {"steps", "max_minutes", "checkpoint_every", "validate_every", "score_every"}  # a run may be prolonged


def run_training(
    ctx: StageContext,
    name: str,
    generator: Generator,
    config: TrainConfig,
    corpus: Corpus,
    table: NeighborTable,
    accelerator: Accelerator,
    *,
    fingerprint_of: Mapping[str, Any],
    base: dict[str, Any] | None = None,
    score: Hook | None = None,
) -> tuple[TrainResult, dict[str, Any]]:
    """Train and describe; progress, pictures and scores go to the tracker.

    Args:
        ctx: of the stage.
        name: of the stage.
        generator: trained in place.
        config: of the run.
        corpus: its train split is trained on.
        table: neighbors of train and validation pairs.
        accelerator: of `open_accelerator`.
        fingerprint_of: what the weights start from.
        base: card of the weights they start from.
        score: called every `config.score_every` steps; see `metrics.validation_scores`.

    Returns:
        The result, and its card.
    """
    count, seed = ctx.config.retrieval.content, ctx.config.seed
    made_of = {"corpus": corpus.hash, "neighbors": tree_hash(ctx.root / layout.NEIGHBORS)}
    facts = dict(fingerprint_of) | made_of | {"stage": name, "seed": seed, "num_neighbors": count}
    scratch = ctx.root / layout.SCRATCH / f"{name}-{fingerprint(facts | config.model_dump(exclude=_LENGTH))}"
    ctx.tracker.log_dataset("corpus", corpus.hash, layout.CORPUS, "training")
    ctx.tracker.set_tags({"scratch": scratch.name})
    probe = make_probe(generator, corpus, table.validation, count, _PROBE_SIZE, seed) if table.validation else None
    hooks = [(config.validate_every, pictures(ctx, corpus, table.validation))]
    if score is not None:
        hooks.append((config.score_every, score))
    result = train(
        generator,
        Batches(corpus, table.training, config, count, seed),
        config,
        seed=seed,
        scratch=scratch,
        tracker=ctx.tracker,
        probe=probe,
        hooks=hooks,
        accelerator=accelerator,
        shard=ctx.config.shard,
    )
    settings = {
        "model": ctx.config.model.model_dump() if generator.published is None else None,
        name: config.model_dump(),
        "num_neighbors": count,
        "seed": ctx.config.seed,
    }
    return result, make_card(corpus, table.training, result, settings, base=base)


def save_model(folder: Path, generator: Generator, card: dict[str, Any], stages: Sequence[CascadeStage] = ()) -> None:
    """Write weights and card as one folder, or not at all.

    Args:
        folder: to make or replace.
        generator: whose weights they are.
        card: of `make_card`.
        stages: super-resolution stages that follow it in a cascade.
    """
    with atomic_dir(folder) as beside:
        save_generator(generator, beside)
        save_stages(stages, beside)
        write_card(beside, card)


def write_losses(path: Path, result: TrainResult) -> None:
    """Write the loss curve of `result` to `path` as CSV: step, mean loss of the last ten steps, neighbor gains."""
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
