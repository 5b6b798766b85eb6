"""Stage `pretrain` (pipelines/pretrain): the base generator, from scratch, with neighbors, on the train split."""

from __future__ import annotations

import torch

from rag_diffusion import layout
from rag_diffusion.corpus.store import Corpus
from rag_diffusion.device import choose_device
from rag_diffusion.models.codec import PatchCodec
from rag_diffusion.models.own import build_generator
from rag_diffusion.retrieval.neighbors import NeighborTable
from rag_diffusion.stages.context import StageContext
from rag_diffusion.stages.training import run_training, save_model


def run(ctx: StageContext) -> None:
    """Write pipelines/pretrain/result; `rag-diffusion base promote` copies it to data/base."""
    config = ctx.config
    corpus = Corpus.open(ctx.root / layout.CORPUS)
    table = NeighborTable.open(ctx.root / layout.NEIGHBORS, corpus)
    torch.manual_seed(config.seed)
    train = corpus.pixels(corpus.rows(table.training))
    codec = PatchCodec.fit(train, config.model.patch_size)
    generator = build_generator(config.model, codec, config.corpus.image_size, choose_device(config.device))
    facts = {"model": config.model.model_dump(), "image_size": config.corpus.image_size}
    result, card = run_training(ctx, "pretrain", generator, config.pretrain, corpus, table, fingerprint_of=facts)
    save_model(ctx.root / layout.PRETRAINED, result.generator, card)
    print(f"{result.images_seen} images in {result.seconds / 60:.0f} min -> {layout.PRETRAINED}")
