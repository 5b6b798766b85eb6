"""The report of an index build: how much of what exhaustive search finds the index finds too, for caption queries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rag_diffusion.errors import ConfigError

RECALL_QUERIES = 1000
RECALL_DEPTH = 10


def recall_report(
    recalls: Mapping[str, float],
    points: Mapping[str, Mapping[str, int]],
    *,
    factory: str,
    num_pairs: int,
    num_queries: int,
    min_recall: float,
) -> dict[str, Any]:
    """What was measured of the indexes of a data set, how, and whether it is enough.

    Args:
        recalls: recall@10 of each index by its name, against exhaustive search, of hits as a query has them: scored
            again where the index does so.
        points: the operating point of each by its name; empty where none is to be chosen.
        factory: of the indexes.
        num_pairs: that they are over.
        num_queries: captions that they were asked for.
        min_recall: recall@10 asked for.
    """
    report = {
        "factory": factory,
        "queries": "captions",
        "against": "exhaustive search",
        "num_pairs": num_pairs,
        "depth": RECALL_DEPTH,
        "caption_queries": num_queries,
        "min_recall": min_recall,
        "passed": min(recalls.values()) >= min_recall,
        **{f"recall_{name}": value for name, value in recalls.items()},
    }
    return report | ({"operating_points": {name: dict(point) for name, point in points.items()}} if points else {})


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
            f"queries, got {low} with {report['factory']!r}; choose a finer factory (`auto` chooses, `Flat` is exact) "
            "or lower index.min_recall"
        )
