"""Stage `clips_score` (pipelines/clips): rollouts on held-out clips, each variant of what a frame is drawn from.

clips.json     every measure of every variant with its interval over families, and ratios to the real clips' own
clips.webp     some of the clips, real and drawn, side by side; it plays in a browser
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from rag_diffusion import layout
from rag_diffusion.arrays import Pixels
from rag_diffusion.config import ClipsScoreConfig
from rag_diffusion.device import choose_device
from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.files import atomic_dir, tree_hash
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.metrics.clip_rollouts import VARIANTS, ClipTask, ClipVariant, roll_out
from rag_diffusion.metrics.clips import ClipJudge, table
from rag_diffusion.metrics.ruler.trunk import Trunk
from rag_diffusion.models.frames import with_changes
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.load import load_generator
from rag_diffusion.models.neighbor_batch import Neighbor, neighbors_from
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.retrieval.query import Query
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.store.clips import Clip, Clips
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.training.card import read_card, refuse_seen

_LOG = logging.getLogger(__name__)

_SHOWN = 8  # clips of the sheet
_PAIRS = 1


def run(ctx: StageContext) -> None:
    """Write pipelines/clips/scores.

    Raises:
        LineageError: the weights have seen a held-out entity.
        DataError: no clip of the split is long enough.
    """
    config, seed = ctx.config.clips.score, ctx.config.seed
    if unknown := sorted(set(config.variants) - set(VARIANTS)):
        raise ConfigError(f"clips.score.variants: expected some of {', '.join(VARIANTS)}, got {unknown}")
    clips, trained = Clips.open(ctx.root / layout.CLIPS), ctx.root / layout.FRAMES_TRAINED
    refuse_seen(read_card(trained), Corpus.open(ctx.root / layout.CORPUS), layout.FRAMES_TRAINED)
    chosen = choose_clips(clips, config, seed)
    real = np.stack([clips.frames(clip)[:: config.stride][: config.num_frames] for clip in chosen])
    pairs = _pairs(ctx.root, chosen) if "knowledge" in config.variants else [()] * len(chosen)
    tasks = [
        ClipTask(prompt=clip.title, first=frames[0], seed=seed + number, pairs=tuple(own))
        for number, (clip, frames, own) in enumerate(zip(chosen, real, pairs, strict=True))
    ]
    base = load_generator(ctx.root / ctx.config.clips.train.base, choose_device(ctx.config.device))
    changed, drawn = with_changes(base, trained), {"real": real}
    for name in config.variants:
        variant = replace(VARIANTS[name], first_weight=config.first_weight)
        if variant.strength:
            variant = replace(variant, strength=config.sdedit_strength)
        drawn[name] = _roll_out(base if variant.strength else changed, tasks, variant, config)
    trunk = Trunk().eval()
    judge = ClipJudge(real, lambda pixels: trunk.embed(pixels, desc="look at frames").pooled)
    scores = {name: judge.scores(frames) for name, frames in drawn.items()}
    rows = table(scores, [clip.family for clip in chosen], draws=ctx.config.score.bootstrap_draws, seed=ctx.config.seed)
    report = {
        "clips": [clip.name for clip in chosen],
        "clips_hash": clips.hash,
        "changes_hash": tree_hash(trained),
        "settings": config.model_dump(),
        "variants": rows,
    }
    with atomic_dir(ctx.root / layout.FRAMES_SCORES) as beside:
        (beside / "clips.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        write_sheet(beside / "clips.webp", {name: frames[:_SHOWN] for name, frames in drawn.items()})
    for name, row in rows.items():
        ctx.tracker.log_metrics({f"{name}.{measure}": own["mean"] for measure, own in row.items()})
        _LOG.info("%-10s %s", name, "  ".join(f"{measure} {own['mean']:.4f}" for measure, own in row.items()))


def choose_clips(clips: Clips, config: ClipsScoreConfig, seed: int) -> list[Clip]:
    """Clips of a split that are long enough, one of a family, always the same for a seed.

    Args:
        clips: where they are.
        config: split, length and the most of them.
        seed: of the choice.

    Raises:
        DataError: there is none.
    """
    wanted = config.stride * (config.num_frames - 1) + 1
    one_each = {clip.family: clip for clip in reversed(clips.of(config.split)) if clip.count >= wanted}
    names = sorted(one_each)
    chosen = [one_each[names[number]] for number in np.random.default_rng(seed).permutation(len(names))]
    if not chosen:
        raise DataError(
            f"clips.score: expected {config.split} clips of {wanted} frames, found none; lower num_frames or stride"
        )
    return chosen[: config.max_clips]


def _pairs(root: Path, chosen: list[Clip]) -> list[list[Neighbor]]:
    """For each clip the best pairs of the knowledge base."""
    results = KnowledgeBase.open(root).search(Query([clip.title for clip in chosen], top_k=_PAIRS))
    found = []
    for row, hits in enumerate(results.hits):
        pairs = results.pairs(row)
        found.append([] if pairs is None else list(neighbors_from(pairs, hits.pair_ids)))
    return found


def _roll_out(generator: Generator, tasks: list[ClipTask], variant: ClipVariant, config: ClipsScoreConfig) -> Pixels:
    pipeline = RetrievalPipeline(generator, scheduler="DDIMScheduler", precision=config.precision)
    pipeline.set_progress_bar_config(disable=True)
    return roll_out(
        pipeline,
        tasks,
        variant,
        num_frames=config.num_frames,
        batch_size=config.batch_size,
        fresh_noise=config.fresh_noise,
        num_inference_steps=config.num_inference_steps,
        guidance=Guidance(
            mode=config.guidance,
            text_guidance_scale=config.text_guidance_scale,
            neighbor_guidance_scale=config.neighbor_guidance_scale,
        ),
    )


def write_sheet(path: Path, clips: dict[str, Pixels], milliseconds: int = 170) -> None:
    """Write clips as one animated WebP: a row each, a column for each kind.

    Args:
        path: the file.
        clips: (C, N, H, W, 3) by kind, in the order of the columns.
        milliseconds: that a frame is shown.
    """
    columns = np.stack(list(clips.values()), axis=3)  # (C, N, H, V, W, 3)
    count, num_frames, height, kinds, width, _ = columns.shape
    frames = columns.transpose(1, 0, 2, 3, 4, 5).reshape(num_frames, count * height, kinds * width, 3)
    first, *others = [Image.fromarray(frame) for frame in frames]
    first.save(path, save_all=True, append_images=others, duration=milliseconds, loop=0, lossless=True)
