"""Stage `embed`: image and caption vectors of every pair."""

from __future__ import annotations

import numpy as np

from rag_diffusion.arrays import Ints
from rag_diffusion.engine.work import Engine, open_engine
from rag_diffusion.files import atomic_dir
from rag_diffusion.layout import CORPUS, ENCODER, SCRATCH, VECTORS
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.retrieval.align import check_training_record
from rag_diffusion.retrieval.encoder import Encoder
from rag_diffusion.retrieval.spread import EmbedPairs, embedded, spread_vectors
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
    engine = open_engine(ctx.config)
    vectors = embed_corpus(encoder, corpus) if engine is None else _spread(engine, ctx, encoder.hash, corpus)
    with atomic_dir(ctx.root / VECTORS) as folder:
        vectors.save(folder / VECTORS_FILE)
        stamp = {"corpus_hash": corpus.hash, "encoder_hash": encoder.hash, "dim": vectors.image.shape[1]}
        write_stamp(folder, stamp)
    ctx.tracker.log_metrics({
        "num_pairs": len(corpus),
        "dim": vectors.image.shape[1],
        "own_pair_similarity": float((np.asarray(vectors.image) * np.asarray(vectors.text)).sum(axis=1).mean()),
    })  # fmt: skip


def embed_corpus(encoder: Encoder, corpus: Corpus) -> Vectors:
    """Vectors of all pairs of `corpus` by `encoder`; train pairs apart, since `align` may have left their features."""
    captions, parts = corpus.column("caption"), _parts(corpus)
    image = [encoder.images(corpus.pixels(rows)) for rows in parts]
    text = [encoder.texts(captions[rows].tolist()) for rows in parts]
    return embedded((np.concatenate(image), np.concatenate(text)), parts)


def _spread(engine: Engine, ctx: StageContext, encoder_hash: str, corpus: Corpus) -> Vectors:
    """The same by the workers of an `engine`."""
    work = EmbedPairs(root=ctx.root, device=ctx.config.device, corpus_hash=corpus.hash, encoder_hash=encoder_hash)
    captions, parts = corpus.column("caption").tolist(), _parts(corpus)
    return embedded(spread_vectors(engine, work, captions, parts), parts)


def _parts(corpus: Corpus) -> list[Ints]:
    """Rows of train pairs, and of all others; without those of which there are none."""
    is_train = corpus.column("split") == "train"
    return [rows for rows in (np.flatnonzero(is_train), np.flatnonzero(~is_train)) if len(rows)]
