"""Stage `align`: train the embedded dual encoder on train pairs, or name a published one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from rag_diffusion.errors import DataError
from rag_diffusion.files import atomic_dir, tree_hash
from rag_diffusion.layout import CORPUS, ENCODER, SCRATCH
from rag_diffusion.models.dual_encoder import (
    EMBEDDED,
    create_embedded,
    load_published,
    save_weights,
    write_published,
)
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.retrieval.align import RECORD_FILE, train_heads, training_record
from rag_diffusion.retrieval.encoder import Encoder
from rag_diffusion.store.corpus import Corpus

TRUNK_FEATURES = f"{SCRATCH}/trunk"


def run(ctx: StageContext) -> None:
    """Write data/encoder.

    Raises:
        DataError: the corpus has no train pairs.
        ModelError: a published encoder cannot be had.
    """
    corpus = Corpus.open(ctx.root / CORPUS)
    ctx.tracker.log_dataset("corpus", corpus.hash, CORPUS)
    with atomic_dir(ctx.root / ENCODER) as folder:
        if ctx.config.encoder.model == EMBEDDED:
            _align(ctx, corpus, folder)
        else:
            load_published(ctx.config.encoder.model, ctx.config.encoder.pretrained)
            write_published(folder, model=ctx.config.encoder.model, pretrained=ctx.config.encoder.pretrained)
    ctx.tracker.set_tags({"encoder_hash": tree_hash(ctx.root / ENCODER)})


def _align(ctx: StageContext, corpus: Corpus, folder: Path) -> None:
    config = ctx.config.encoder
    train = corpus.table[corpus.table["split"] == "train"]
    if train.empty:
        raise DataError(
            f"{ctx.root / CORPUS}: expected train pairs to align the encoder on, got none; lower corpus.split"
        )
    encoder = create_embedded(folder, image_size=config.image_size, embed_dim=config.embed_dim, seed=ctx.config.seed)
    towers = Encoder(encoder, device=ctx.config.device, scratch=ctx.root / TRUNK_FEATURES)
    images = towers.image_features(corpus.pixels(train.index.to_numpy()))
    texts = towers.text_features(train["caption"].tolist())
    titles = towers.text_features(train["title"].tolist()) if config.title_weight else None
    encoder.model.cpu()  # two small heads: on a GPU they would train no faster
    losses: list[float] = []

    def on_step(step: int, loss: float) -> None:
        losses.append(loss)
        ctx.tracker.log_metrics({"loss": loss}, step)

    train_heads(
        encoder,
        images,
        texts,
        entity=train["entity"].factorize()[0].astype(np.int64),
        family=train["family"].factorize()[0].astype(np.int64),
        config=config,
        seed=ctx.config.seed,
        on_step=on_step,
        title_features=titles,
    )
    save_weights(encoder, folder)
    record = training_record(corpus)
    (folder / RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    ctx.tracker.log_metrics(
        {
            "final_loss": float(np.mean(losses[-10:])),
            "train_pairs": len(train),
            "train_entities": train["entity"].nunique(),
        }
    )
