"""The report of an index build: how much of what exhaustive search finds the index finds too, for caption queries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rag_diffusion.arrays import Floats
from rag_diffusion.errors import ConfigError
from rag_diffusion.retrieval.ann import Nearest, recall

RECALL_QUERIES = 1000
RECALL_DEPTH = 10


def recall_report(
    indexes: Mapping[str, tuple[Nearest, Floats]],
    captions: Floats,
    *,
    factory: str,
    min_recall: float,
    num_queries: int = RECALL_QUERIES,
) -> dict[str, Any]:
    """Compare indexes with exhaustive search.

    Args:
        indexes: by name, each with the (N, D) vectors it is over.
        captions: (N, D) vectors of captions, evenly spread ones of which are the queries.
        factory: of the indexes.
        min_recall: recall@10 asked for.
        num_queries: at most so many.

    Returns:
        What was measured, how, and `passed`.
    """
    queries = _spread(captions, num_queries)
    recalls = {f"recall_{name}": recall(index, base, queries, RECALL_DEPTH) for name, (index, base) in indexes.items()}
    return {
        "factory": factory,
        "queries": "captions",
        "against": "exhaustive search",
        "num_pairs": len(captions),
        "depth": RECALL_DEPTH,
        "caption_queries": len(queries),
        "min_recall": min_recall,
        "passed": min(recalls.values()) >= min_recall,
        **recalls,
    }


def check_recall(report: Mapping[str, Any]) -> None:
    """Refuse an index that finds too little, by its `report`.

    Raises:
        ConfigError: it recalls less than the report asks for.
    """
    if not report["passed"]:
        recalls = {name: round(value, 4) for name, value in report.items() if name.startswith("recall_")}
        low = {name: value for name, value in recalls.items() if report[name] < report["min_recall"]}
        raise ConfigError(
            f"index.factory: expected recall@{report['depth']} of at least {report['min_recall']} with caption "
            f"queries, got {low} with {report['factory']!r}; choose a finer factory (`Flat` is exact) or lower "
            "index.min_recall"
        )


def _spread(vectors: Floats, count: int) -> Floats:
    """At most `count` rows, evenly spread."""
    rows = np.linspace(0, len(vectors) - 1, min(count, len(vectors))).astype(np.int64)
    return np.asarray(vectors[rows])
