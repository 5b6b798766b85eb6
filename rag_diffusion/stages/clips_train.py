"""Stage `clips_train` (pipelines/clips): changes by which the base draws a clip's next frame."""

from __future__ import annotations

import logging
from collections import defaultdict

import numpy as np
import torch

from rag_diffusion import layout
from rag_diffusion.errors import ModelError
from rag_diffusion.files import atomic_dir, code_hash, fingerprint, tree_hash
from rag_diffusion.models.frames import changes, save_changes
from rag_diffusion.models.load import load_generator
from rag_diffusion.models.trainable import train_parts
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.store.clips import Clips
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.training.card import make_clips_card, read_card, refuse_seen, write_card
from rag_diffusion.training.clips_data import ClipBatches, Still, own_estimate
from rag_diffusion.training.clips_validation import clip_losses, make_clip_probe
from rag_diffusion.training.loop import train
from rag_diffusion.training.processes import open_accelerator

_LOG = logging.getLogger(__name__)

_LENGTH = {"steps", "max_minutes", "checkpoint_every", "validate_every"}  # a run may be prolonged


def run(ctx: StageContext) -> None:
    """Write pipelines/clips/result; `rag-diffusion base promote-frames` copies it to data/frames."""
    config, seed = ctx.config.clips.train, ctx.config.seed
    clips, corpus = Clips.open(ctx.root / layout.CLIPS), Corpus.open(ctx.root / layout.CORPUS)
    accelerator = open_accelerator(ctx.config.device)
    card = read_card(ctx.root / config.base)
    refuse_seen(card, corpus, config.base)
    torch.manual_seed(seed)  # of what is new
    generator = load_generator(
        ctx.root / config.base,
        accelerator.device,
        neighbor_fine_skips=tuple(config.neighbor_fine_skips),
        neighbor_fine_dim=config.neighbor_fine_dim,
    )
    if generator.image_size != clips.image_size:
        raise ModelError(
            f"{config.base}: expected a base for the clips' {clips.image_size} px, got {generator.image_size} px; run "
            "the stage `clips` with its corpus.image_size"
        )
    train_parts(generator.unet, config.trainable, config.lora_rank)
    facts = {"clips": clips.hash, "base": tree_hash(ctx.root / config.base), "seed": seed}
    facts |= {"code": code_hash("models", "training"), **config.model_dump(exclude=_LENGTH)}
    probe = make_clip_probe(clips, config, seed)
    ctx.tracker.log_dataset("clips", clips.hash, layout.CLIPS, "training")
    result = train(
        generator,
        ClipBatches(clips, config, seed, _stills(corpus), own_estimate(generator, config.precision)),
        config,
        seed=seed,
        scratch=ctx.root / layout.SCRATCH / f"clips-{fingerprint(facts)}",
        tracker=ctx.tracker,
        hooks=[(config.validate_every, lambda averaged, step: clip_losses(averaged, probe, step, ctx.tracker))],
        accelerator=accelerator,
    )
    result.gains.append({"step": result.losses[-1][0]} | clip_losses(generator, probe))
    found = changes(generator.unet, load_generator(ctx.root / config.base, accelerator.device).unet)
    settings = {"clips": ctx.config.clips.model_dump(), "seed": seed}
    with atomic_dir(ctx.root / layout.FRAMES_TRAINED) as beside:
        save_changes(beside, generator.unet, found, image_size=clips.image_size)
        write_card(beside, make_clips_card(clips, result, settings, base=card, changed=found))
    count = sum(value.numel() for value in found.values())
    _LOG.info("%d steps in %.0f min, %d weights changed", result.losses[-1][0], result.seconds / 60, count)


def _stills(corpus: Corpus) -> dict[str, list[Still]]:
    """Entity -> drawings of the train split with their captions."""
    rows = np.flatnonzero(corpus.column("split") == "train")
    found: dict[str, list[Still]] = defaultdict(list)
    for entity, caption, pixels in zip(
        corpus.cells("entity", rows), corpus.cells("caption", rows), corpus.pixels(rows), strict=True
    ):
        found[entity].append((pixels, caption))
    return dict(found)
