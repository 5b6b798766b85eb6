"""Stage `index`: faiss over the vectors, counts of the captions' words, and a report of the recall of faiss.

The report compares the index with exhaustive search, for caption queries. It is logged before it is judged, so that a
build that fails leaves its numbers with the tracker.
"""

from __future__ import annotations

import json

from rag_diffusion.files import atomic_dir
from rag_diffusion.layout import CORPUS, INDEX, RECALL_FILE, VECTORS
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.retrieval.ann import VectorIndex
from rag_diffusion.retrieval.counts import TermCounts
from rag_diffusion.retrieval.indexes import IMAGE_INDEX, TEXT_INDEX
from rag_diffusion.retrieval.recall import check_recall, recall_report
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.store.stamps import check_stamp, write_stamp
from rag_diffusion.store.vectors import VECTORS_FILE, Vectors


def run(ctx: StageContext) -> None:
    """Write data/index.

    Raises:
        ConfigError: `index.factory` is no faiss index, or it recalls less than `index.min_recall`.
        LineageError: the vectors were made from another corpus.
    """
    config = ctx.config.index
    corpus = Corpus.open(ctx.root / CORPUS)
    made = check_stamp(ctx.root / VECTORS, corpus.hash, stage="embed")
    vectors = Vectors.open(ctx.root / VECTORS / VECTORS_FILE, len(corpus), remedy="run the stage `embed` again")
    ctx.tracker.log_dataset("corpus", corpus.hash, CORPUS)
    bases = {"image": (IMAGE_INDEX, vectors.image), "text": (TEXT_INDEX, vectors.text)}
    indexes = {name: (VectorIndex.build(base, config.factory), base) for name, (_, base) in bases.items()}
    with atomic_dir(ctx.root / INDEX) as folder:
        for name, (file, _) in bases.items():
            indexes[name][0].save(folder / file)
        TermCounts.from_texts(corpus.table["caption"]).save(folder)
        report = recall_report(indexes, vectors.text, factory=config.factory, min_recall=config.min_recall)
        path = folder / RECALL_FILE
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        ctx.tracker.log_artifact(path, "index")
        stamp = {"corpus_hash": corpus.hash, "encoder_hash": made["encoder_hash"]}
        write_stamp(folder, stamp | {"factory": config.factory})
        recalls = {key: value for key, value in report.items() if key.startswith("recall_")}
        ctx.tracker.log_metrics({**recalls, "num_pairs": len(corpus)})
        check_recall(report)
