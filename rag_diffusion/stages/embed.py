"""Stage `embed`: image and caption vectors of every pair."""

from __future__ import annotations

import numpy as np

from rag_diffusion.files import atomic_dir
from rag_diffusion.layout import CORPUS, ENCODER, SCRATCH, VECTORS
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.retrieval.align import check_training_record
from rag_diffusion.retrieval.encoder import Encoder
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.store.stamps import write_stamp
from rag_diffusion.store.vectors import VECTORS_FILE, Vectors

TRUNK_FEATURES = f"{SCRATCH}/trunk"


def run(ctx: StageContext) -> None:
    """Write data/vectors.

    Raises:
        ModelError: the encoder is missing, damaged or cannot be fetched.
        LineageError: the encoder has seen a held-out family of this corpus.
    """
    corpus = Corpus.open(ctx.root / CORPUS)
    check_training_record(ctx.root / ENCODER, corpus)
    encoder = Encoder(ctx.root / ENCODER, device=ctx.config.device, scratch=ctx.root / TRUNK_FEATURES)
    ctx.tracker.log_dataset("corpus", corpus.hash, CORPUS)
    ctx.tracker.set_tags({"encoder_hash": encoder.hash})
    vectors = embed_corpus(encoder, corpus)
    with atomic_dir(ctx.root / VECTORS) as folder:
        vectors.save(folder / VECTORS_FILE)
        stamp = {"corpus_hash": corpus.hash, "encoder_hash": encoder.hash, "dim": vectors.image.shape[1]}
        write_stamp(folder, stamp)
    ctx.tracker.log_metrics({
        "num_pairs": len(corpus),
        "dim": vectors.image.shape[1],
        "own_pair_similarity": float((vectors.image * vectors.text).sum(axis=1).mean()),
    })  # fmt: skip


def embed_corpus(encoder: Encoder, corpus: Corpus) -> Vectors:
    """Vectors of all pairs of `corpus` by `encoder`; train pairs apart, since `align` may have left their features."""
    captions = corpus.table["caption"].to_numpy()
    is_train = (corpus.table["split"] == "train").to_numpy()
    image: list[np.ndarray] = []
    text: list[np.ndarray] = []
    parts = [rows for rows in (np.flatnonzero(is_train), np.flatnonzero(~is_train)) if len(rows)]
    for rows in parts:
        image.append(encoder.images(corpus.pixels(rows)))
        text.append(encoder.texts(captions[rows].tolist()))
    order = np.argsort(np.concatenate(parts))
    return Vectors(np.concatenate(image)[order], np.concatenate(text)[order])
