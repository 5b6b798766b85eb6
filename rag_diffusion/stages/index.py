"""Stage `index`: faiss over the vectors, counts of the captions' words, a report of the recall of faiss, and the
calibration of scores.

The report compares the index with exhaustive search, for caption queries. It is logged before it is judged, so that a
build that fails leaves its numbers with the tracker.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import pyarrow as pa

from rag_diffusion.errors import LineageError
from rag_diffusion.files import atomic_dir
from rag_diffusion.layout import CORPUS, ENCODER, INDEX, RECALL_FILE, VECTORS
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.retrieval.assemble import pipeline_retriever
from rag_diffusion.retrieval.calibration import CALIBRATION_FILE, fit_calibration
from rag_diffusion.retrieval.encoder import Encoder
from rag_diffusion.retrieval.index_shards import build_index_files
from rag_diffusion.retrieval.indexes import count_words
from rag_diffusion.retrieval.recall import check_recall
from rag_diffusion.retrieval.short_texts import encoded_short
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.store.stamps import check_stamp, write_stamp
from rag_diffusion.store.vectors import VECTORS_FILE

_LOG = logging.getLogger(__name__)


def run(ctx: StageContext) -> None:
    """Write data/index.

    Raises:
        ConfigError: `index.factory` is no faiss index, or it, or vectors in `index.precision`, recall less than
            `index.min_recall`.
        LineageError: the vectors were made from another corpus, or by another encoder than there is.
    """
    corpus = Corpus.open(ctx.root / CORPUS)
    vectors_stamp = check_stamp(ctx.root / VECTORS, corpus.hash, stage="embed")
    encoder = Encoder(ctx.root / ENCODER, device=ctx.config.device) if (ctx.root / ENCODER).is_dir() else None
    if encoder is not None and encoder.hash != vectors_stamp["encoder_hash"]:
        raise LineageError(
            f"{ctx.root / VECTORS}: expected vectors of encoder {encoder.hash}, got those of encoder "
            f"{vectors_stamp['encoder_hash']}; run the stage `embed` again"
        )
    ctx.tracker.log_dataset("corpus", corpus.hash, CORPUS)
    with atomic_dir(ctx.root / INDEX) as folder:
        captions, titles = (pa.chunked_array([pa.array(corpus.table[name])]) for name in ("caption", "title"))
        count_words(folder, captions)
        short = None if encoder is None else encoded_short(encoder.texts, captions, titles)
        report = build_index_files(
            folder,
            ctx.config,
            ctx.root / VECTORS / VECTORS_FILE,
            len(corpus),
            kept=folder / VECTORS_FILE,
            shards=ctx.config.index.shards,
            remedy="run the stage `embed` again",
            short=short,
        )
        ctx.tracker.log_artifact(folder / RECALL_FILE, "index")
        stamp = {"corpus_hash": corpus.hash, "encoder_hash": vectors_stamp["encoder_hash"]}
        precision = {"precision": report["precision"]} if "precision" in report else {}
        write_stamp(folder, stamp | {"factory": report["factory"]} | precision)
        recalls = {key: value for key, value in report.items() if key.startswith("recall_")}
        ctx.tracker.log_metrics({**recalls, "num_pairs": len(corpus)})
        check_recall(report)
    _calibrate(ctx)


def _calibrate(ctx: StageContext) -> None:
    """Fit the scores of the pairs that were indexed, and write the calibration beside the index."""
    if not (ctx.root / ENCODER).is_dir():
        _LOG.warning("scores are not calibrated: there is no encoder for queries; run the stage `align`")
        return
    retriever = pipeline_retriever(ctx.root, ctx.config)
    fitted = fit_calibration(retriever, seed=ctx.config.seed)
    calibration = replace(fitted, encoder_hash=Encoder(ctx.root / ENCODER).hash)
    path = ctx.root / INDEX / CALIBRATION_FILE
    calibration.save(path)
    ctx.tracker.log_artifact(path, "index")
    if not calibration.fitted:
        _LOG.warning(calibration.reason)
        return
    ctx.tracker.log_metrics(
        {
            "calibration_error": calibration.expected_calibration_error,
            "calibration_queries": calibration.num_queries,
        }
    )
