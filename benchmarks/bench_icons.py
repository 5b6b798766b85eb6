"""What does a query cost over the drawings of Iconify, by part, and which drawings does a name find across sets?

    rag-diffusion kb add icons npm:@iconify/json
    python benchmarks/bench_icons.py [--data-set icons] [--queries 300] [--copies 3]

Queries are names of drawings, "an icon of a NAME", drawn by seed among the names that several sets have; the text tower
and the indexes are the project's own. Recall: of the drawings of that very name, at most ten, how many are among the
first ten hits, and whether the first hit is one. Prints milliseconds by part, median and 99th percentile, and recall.
With `--copies`, the data set (of a project made for this) becomes so many segments, each linked from it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from bench_segments import copied, resident

from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.readers.caption_text import with_article
from rag_diffusion.retrieval.query import Query
from rag_diffusion.retrieval.query_metrics import latencies
from rag_diffusion.spans import Span, recording, span

TOP = 10


def main() -> None:
    """Ask, and count."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--root", type=Path, default=Path())
    arguments.add_argument("--data-set", default="icons")
    arguments.add_argument("--queries", type=int, default=300)
    arguments.add_argument("--copies", type=int, default=0)
    options = arguments.parse_args()
    if options.copies:
        copied(KnowledgeBase.open(options.root), options.copies, options.data_set)
    start = time.perf_counter()
    base = KnowledgeBase.open(options.root)
    retriever = base.retriever([options.data_set])
    opened = time.perf_counter() - start
    pairs = retriever.corpus
    names, sets = pairs.column("title"), pairs.column("style")
    hands = defaultdict[str, set[str]](set)
    for name, own in zip(names.tolist(), sets.tolist(), strict=True):
        hands[name].add(own)
    count = Counter(names.tolist())
    shared = sorted(name for name, own in hands.items() if len(own) > 1)
    asked = np.random.default_rng(0).choice(shared, size=min(options.queries, len(shared)), replace=False).tolist()
    search(base, options.data_set, "warm up")
    roots, found, first, styles = list[Span](), list[float](), list[bool](), list[int]()
    for name in asked:
        with recording("query") as root:
            ids = search(base, options.data_set, f"an icon of {with_article(name)}")
        roots.append(root)
        rows = pairs.rows(ids)
        right = [title == name for title in pairs.cells("title", rows)]
        found.append(sum(right) / min(TOP, count[name]))
        first.append(right[0])
        styles.append(len(set(pairs.cells("style", rows[np.asarray(right)]))))
    report = {
        "pairs": len(pairs),
        "sets": len(set(sets.tolist())),
        "names": len(count),
        "names_of_several_sets": len(shared),
        "queries": len(asked),
        "open_s": round(opened, 2),
        "own_memory_mib": round(resident()),
        "recall_of_the_name_at_10": round(float(np.mean(found)), 3),
        "first_hit_has_the_name": round(float(np.mean(first)), 3),
        "sets_among_the_right_hits": round(float(np.mean(styles)), 2),
        "ms": {key: round(value, 2) for key, value in latencies(roots).items()},
    }
    print(json.dumps(report, indent=1))


def search(base: KnowledgeBase, data_set: str, text: str) -> tuple[str, ...]:
    """Ids of the hits, whose images are read."""
    (hits,) = base.search(Query([text], top_k=TOP, sets=[data_set])).hits
    pairs = base.retriever([data_set]).corpus
    with span("images", "TOOL"):
        pairs.pixels(pairs.rows(hits.pair_ids))
    return hits.pair_ids


if __name__ == "__main__":
    main()
