"""Stage `index`: faiss over the vectors, counts of the captions' words, and a report of the recall of faiss.

The report compares the index with exhaustive search, for caption queries. It is logged before it is judged, so that a
build that fails leaves its numbers with the tracker.
"""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

from rag_diffusion.corpus.store import Corpus
from rag_diffusion.errors import ConfigError
from rag_diffusion.files import atomic_dir
from rag_diffusion.layout import CORPUS, INDEX, VECTORS
from rag_diffusion.retrieval.ann import VectorIndex, recall
from rag_diffusion.retrieval.counts import TermCounts
from rag_diffusion.retrieval.retriever import IMAGE_INDEX, TEXT_INDEX
from rag_diffusion.retrieval.vectors import Vectors, write_stamp
from rag_diffusion.stages.context import StageContext

RECALL_QUERIES = 1000
RECALL_DEPTH = 10
RECALL_FILE = "recall.json"


def run(ctx: StageContext) -> None:
    """Write data/index.

    Raises:
        ConfigError: `index.factory` is no faiss index, or it recalls less than `index.min_recall`.
        LineageError: the vectors were made from another corpus.
    """
    config = ctx.config.index
    corpus = Corpus.open(ctx.root / CORPUS)
    vectors = Vectors.open(ctx.root / VECTORS, corpus)
    ctx.tracker.log_dataset("corpus", corpus.hash, CORPUS)
    queries = _spread(vectors.text, RECALL_QUERIES)
    report: dict[str, float] = {}
    with atomic_dir(ctx.root / INDEX) as folder:
        for name, file, base in (
            ("image", IMAGE_INDEX, vectors.image),
            ("text", TEXT_INDEX, vectors.text),
        ):
            index = VectorIndex.build(base, config.factory)
            index.save(folder / file)
            report[f"recall_{name}"] = recall(index, base, queries, RECALL_DEPTH)
        TermCounts.of(corpus.table["caption"]).save(folder)
        facts = {
            "factory": config.factory,
            "queries": "captions",
            "against": "exhaustive search",
            "num_pairs": len(corpus),
            "depth": RECALL_DEPTH,
            "caption_queries": len(queries),
            "min_recall": config.min_recall,
            "passed": min(report.values()) >= config.min_recall,
            **report,
        }
        path = folder / RECALL_FILE
        path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        ctx.tracker.log_artifact(path, "index")
        stamp = {"corpus_hash": corpus.hash, "encoder_hash": vectors.encoder_hash}
        write_stamp(folder, stamp | {"factory": config.factory})
        ctx.tracker.log_metrics({**report, "num_pairs": len(corpus)})
        _check(report, config.factory, config.min_recall)


def _check(report: dict[str, float], factory: str, least: float) -> None:
    low = {name: round(value, 4) for name, value in report.items() if value < least}
    if low:
        raise ConfigError(
            f"index.factory: expected recall@{RECALL_DEPTH} of at least {least} with caption "
            f"queries, got {low} with "
            f"{factory!r}; choose a finer factory (`Flat` is exact) or lower index.min_recall"
        )


def _spread(vectors: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """At most `count` rows, evenly spread."""
    rows = np.linspace(0, len(vectors) - 1, min(count, len(vectors))).astype(np.int64)
    return np.asarray(vectors[rows])
