"""Stage `pretrain` (pipelines/pretrain): the base generator, with neighbors, on the train split.

From scratch, or from the weights in `pretrain.start`, whose card then stands on the new one; what `model` asks of the
neighbor attention and they have not is added to them.

By one process or, started with `accelerate launch -m rag_diffusion run pretrain`, several: see `training.processes`.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from rag_diffusion import layout
from rag_diffusion.config import Config
from rag_diffusion.files import tree_hash
from rag_diffusion.metrics.validation_scores import ValidationScores
from rag_diffusion.models.codec import PatchCodec
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.load import EXTENSIONS, load_generator
from rag_diffusion.models.own import build_generator
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.retrieval.neighbor_table import NeighborTable
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.training.card import read_card, refuse_seen
from rag_diffusion.training.processes import open_accelerator
from rag_diffusion.training.stage import run_training, save_model

_LOG = logging.getLogger(__name__)

SEVERAL_PROCESSES = True  # it may be started by a launcher, see `training.processes`


def run(ctx: StageContext) -> None:
    """Write pipelines/pretrain/result; `rag-diffusion base promote` copies it to data/base."""
    config = ctx.config
    accelerator = open_accelerator(config.device)
    corpus = Corpus.open(ctx.root / layout.CORPUS)
    table = NeighborTable.open(ctx.root / layout.NEIGHBORS, corpus)
    if config.pretrain.start:
        start = ctx.root / config.pretrain.start
        base = read_card(start) | {"name": config.pretrain.start}
        refuse_seen(base, corpus, config.pretrain.start)
        extended = {name: getattr(config.model, name) for name in EXTENSIONS}
        generator = load_generator(start, accelerator.device, **extended)
        facts: dict[str, Any] = {"start": tree_hash(start), "extended": extended}
        ctx.tracker.log_dataset("start", facts["start"], config.pretrain.start)
    else:
        base, generator = None, _fresh(config, corpus, table, accelerator.device)
        facts = {"model": config.model.model_dump(), "image_size": config.corpus.image_size}
    result, card = run_training(
        ctx,
        "pretrain",
        generator,
        config.pretrain,
        corpus,
        table,
        accelerator,
        fingerprint_of=facts,
        base=base,
        score=ValidationScores(ctx.root, config, ctx.tracker, "pretrain") if config.pretrain.score_every else None,
    )
    if not accelerator.is_main_process:
        return
    save_model(ctx.root / layout.PRETRAINED, result.generator, card)
    _LOG.info("%d images in %.0f min -> %s", result.images_seen, result.seconds / 60, layout.PRETRAINED)


def _fresh(config: Config, corpus: Corpus, table: NeighborTable, device: torch.device) -> Generator:
    """A generator without training; its codec knows the train split."""
    torch.manual_seed(config.seed)
    train = corpus.pixels(corpus.rows(table.training))
    codec = PatchCodec.fit(train, config.model.patch_size)
    return build_generator(config.model, codec, config.corpus.image_size, device)
