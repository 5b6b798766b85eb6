"""The report of an index build: how much of what exhaustive search finds it finds too, for captions and short texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rag_diffusion.errors import ConfigError
from rag_diffusion.types import PRECISIONS, Precision

RECALL_QUERIES = 1000
RECALL_DEPTH = 10


def recall_report(
    recalls: Mapping[str, float],
    points: Mapping[str, Mapping[str, int]],
    *,
    factory: str,
    num_pairs: int,
    num_queries: int,
    num_short: int = 0,
    min_recall: float,
) -> dict[str, Any]:
    """What was measured of the indexes of a data set, how, and whether it is enough.

    Args:
        recalls: recall@10 of each index by its name and the kind of queries, against exhaustive search, of hits as a
            query has them: scored again where the index does so.
        points: the operating point of each by its name; empty where none is to be chosen.
        factory: of the indexes.
        num_pairs: that they are over.
        num_queries: captions that they were asked for.
        num_short: short texts that they were asked for as well, see `short_texts`.
        min_recall: recall@10 asked for.
    """
    report = {
        "factory": factory,
        "queries": "captions, short texts" if num_short else "captions",
        "against": "exhaustive search",
        "num_pairs": num_pairs,
        "depth": RECALL_DEPTH,
        "caption_queries": num_queries,
        **({"short_queries": num_short} if num_short else {}),
        "min_recall": min_recall,
        "passed": min(recalls.values()) >= min_recall,
        **{f"recall_{name}": value for name, value in recalls.items()},
    }
    return report | ({"operating_points": {name: dict(point) for name, point in points.items()}} if points else {})


def with_precision(report: dict[str, Any], precision: Precision, kept: Mapping[str, float]) -> dict[str, Any]:
    """A report that tells in how many bits the vectors are kept.

    Args:
        report: of their indexes.
        precision: of the vectors.
        kept: recall@10 of exhaustive search over them against the vectors in float32, by index; empty where these are
            kept, and nothing is to be told.
    """
    if not kept:
        return report
    return report | {"precision": precision, "coarsest": precision, "precision_recall": dict(kept)}


def with_earlier(report: dict[str, Any], earlier: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A report that forgets nothing that was lost before: pairs of another segment have the vectors that were kept.

    Args:
        report: of the vectors as they are kept now, against those that were at hand.
        earlier: reports of the segments that some of them come from.

    Returns:
        The same where all were kept in float32. Else its recalls are no higher than what fewer bits had left, and
        `coarsest` is the precision with the fewest that any vector went through.
    """
    lossy = [one for one in (report, *earlier) if "precision_recall" in one]
    if not any("precision_recall" in one for one in earlier):
        return report
    left = {name: min(one["precision_recall"][name] for one in lossy) for name in lossy[-1]["precision_recall"]}
    recalls = {f"recall_{name}": min(report[f"recall_{name}"], value) for name, value in left.items()}
    return report | recalls | {
        "passed": report["passed"] and min(recalls.values()) >= report["min_recall"],
        "precision": report.get("precision", PRECISIONS[0]),
        "coarsest": max((one["coarsest"] for one in lossy), key=PRECISIONS.index),
        "precision_recall": left,
    }  # fmt: skip


def check_recall(report: Mapping[str, Any]) -> None:
    """Refuse an index that finds too little, or vectors in too few bits, by its `report`.

    Raises:
        ConfigError: it recalls less than the report asks for.
    """
    if report["passed"]:
        return
    asked = f"expected recall@{report['depth']} of at least {report['min_recall']} with queries of {report['queries']}"
    if low := _below(report.get("precision_recall", {}), report["min_recall"]):
        finer = " or ".join(PRECISIONS[: PRECISIONS.index(report["coarsest"])])
        raise ConfigError(
            f"index.precision: {asked}, got {low} by exhaustive search over vectors in {report['coarsest']}; set it to "
            f"{finer}, and run `rag-diffusion kb rebuild NAME` where the data set is there, or lower index.min_recall"
        )
    low = _below({name: value for name, value in report.items() if name.startswith("recall_")}, report["min_recall"])
    raise ConfigError(
        f"index.factory: {asked}, got {low} with {report['factory']!r}; choose a finer factory (`auto` chooses, `Flat` "
        "is exact) or lower index.min_recall"
    )


def _below(recalls: Mapping[str, float], least: float) -> dict[str, float]:
    return {name: round(value, 4) for name, value in recalls.items() if value < least}
