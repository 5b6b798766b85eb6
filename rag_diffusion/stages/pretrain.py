"""Stage `pretrain` (pipelines/pretrain): the base generator, from scratch, with neighbors, on the train split.

By one process or, started with `accelerate launch -m rag_diffusion run pretrain`, several: see `training.processes`.
"""

from __future__ import annotations

import torch

from rag_diffusion import layout
from rag_diffusion.corpus.store import Corpus
from rag_diffusion.models.codec import PatchCodec
from rag_diffusion.models.own import build_generator
from rag_diffusion.retrieval.neighbors import NeighborTable
from rag_diffusion.stages.context import StageContext
from rag_diffusion.stages.training import run_training, save_model
from rag_diffusion.training.processes import open_accelerator


def run(ctx: StageContext) -> None:
    """Write pipelines/pretrain/result; `rag-diffusion base promote` copies it to data/base."""
    config = ctx.config
    accelerator = open_accelerator(config.device)
    corpus = Corpus.open(ctx.root / layout.CORPUS)
    table = NeighborTable.open(ctx.root / layout.NEIGHBORS, corpus)
    torch.manual_seed(config.seed)
    train = corpus.pixels(corpus.rows(table.training))
    codec = PatchCodec.fit(train, config.model.patch_size)
    generator = build_generator(config.model, codec, config.corpus.image_size, accelerator.device)
    facts = {"model": config.model.model_dump(), "image_size": config.corpus.image_size}
    result, card = run_training(
        ctx, "pretrain", generator, config.pretrain, corpus, table, accelerator, fingerprint_of=facts
    )
    if not accelerator.is_main_process:
        return
    save_model(ctx.root / layout.PRETRAINED, result.generator, card)
    print(f"{result.images_seen} images in {result.seconds / 60:.0f} min -> {layout.PRETRAINED}")
