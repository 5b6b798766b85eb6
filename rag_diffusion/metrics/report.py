"""The table of variants as it stands in reports/*.json, and the sentence that says what came out.

N prompts.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from rag_diffusion.arrays import Floats, Ints
from rag_diffusion.metrics.bootstrap import ClusterBootstrap, Interval
from rag_diffusion.metrics.distances import frechet, kid_interval
from rag_diffusion.metrics.judge import METRICS, Verdicts
from rag_diffusion.retrieval.controls import why_without
from rag_diffusion.types import Prompt

REFERENCE = "real"
LEAST = {"kid": 30, "frechet": 100}  # images, below which a distance is not told
ORDER = (
    "none",
    "style",
    "random",
    "retrieved",
    "oracle",
    "copied",
    "copied_best",
    "copied_snap",
    "real_degraded",
    "real",
)
COMPARED = (
    ("retrieved", "none"), ("retrieved", "copied_snap"), ("retrieved", "random"), ("retrieved", "copied"),
    ("retrieved", "copied_best"), ("oracle", "none"), ("oracle", "retrieved"), ("random", "none"),
)  # fmt: skip
CSV_COLUMNS = ("variant", "metric", "mean", "low", "high")

T = TypeVar("T")
Table = dict[str, dict[str, Any]]


def accuracy_table(verdicts: Mapping[str, Verdicts], bootstrap: ClusterBootstrap) -> Table:
    """Accuracy of every variant with intervals.

    Args:
        verdicts: by variant.
        bootstrap: over all prompts.

    Returns:
        Variant -> metric -> interval.
    """
    table: Table = {}
    for name, judged in in_order(verdicts).items():
        part = bootstrap.subset(judged.answers)
        table[name] = {metric: part.interval(judged.values(metric)).as_dict() for metric in METRICS}
    return table


def unjudged_table(names: Sequence[str], reason: str) -> Table:
    """The form of `accuracy_table` for variants `names` where nothing can be judged: no number, and the `reason`."""
    return {name: dict.fromkeys(METRICS) | {"reason": reason} for name in names}


def distance_table(
    features: Mapping[str, Floats],
    frechet_name: str,
    bootstrap: ClusterBootstrap,
    answers: Mapping[str, Ints] | None = None,
) -> Table:
    """KID with its interval and the Frechet distance of every variant to the real images of the same prompts.

    The real images are the reference themselves: no distance. Neither is there one of fewer images than `LEAST` says:
    KID's interval is then wider than what it is to tell apart, and the Frechet distance's covariance means nothing.

    Args:
        features: (N, D) by variant.
        frechet_name: how the Frechet distance is called.
        bootstrap: over all prompts.
        answers: by variant, (N,) numbers of the prompts that its images answer; None: all of them.

    Returns:
        Variant -> measure -> value or interval.
    """
    table: Table = {}
    for name, ours in in_order(features).items():
        table[name] = {"kid": None, frechet_name: None}
        if name == REFERENCE:
            continue
        rows = np.arange(len(ours)) if answers is None else answers[name]
        real = features[REFERENCE][rows]
        if len(ours) >= LEAST["kid"]:
            table[name]["kid"] = kid_interval(ours, real, bootstrap.subset(rows)).as_dict()
        if len(ours) >= LEAST["frechet"]:
            table[name][frechet_name] = round(frechet(ours, real), 6)
    return table


def differences(
    verdicts: Mapping[str, Verdicts], bootstrap: ClusterBootstrap
) -> dict[str, dict[str, dict[str, float]]]:
    """Paired differences between variants that are both there, over the prompts that both answer.

    Args:
        verdicts: by variant.
        bootstrap: over all prompts.

    Returns:
        "one-other" of `COMPARED` -> metric -> interval.
    """
    table: dict[str, dict[str, dict[str, float]]] = {}
    for minuend, subtrahend in COMPARED:
        if minuend in verdicts and subtrahend in verdicts:
            both = np.intersect1d(verdicts[minuend].answers, verdicts[subtrahend].answers)
            if len(both):
                part, pair = bootstrap.subset(both), (verdicts[minuend], verdicts[subtrahend])
                table[f"{minuend}-{subtrahend}"] = {
                    metric: part.difference(*(side.at(both, metric) for side in pair)).as_dict() for metric in METRICS
                }
    return table


def by_kind(
    verdicts: Mapping[str, Verdicts],
    prompts: Sequence[Prompt],
    bootstrap_of: Callable[[Sequence[Prompt]], ClusterBootstrap],
) -> dict[str, Any]:
    """Joint, entity and style accuracy apart for caption-like prompts and sentences.

    Args:
        verdicts: by variant.
        prompts: N of the run.
        bootstrap_of: gives the bootstrap over some prompts.

    Returns:
        Kind -> {"num_prompts", variant: {metric: interval}}.
    """
    kinds = np.array([prompt.kind for prompt in prompts])
    report: dict[str, Any] = {}
    for kind in sorted(set(kinds.tolist())):
        rows = np.flatnonzero(kinds == kind)
        bootstrap = bootstrap_of([prompts[row] for row in rows.tolist()])
        report[kind] = {"num_prompts": len(rows)}
        for name, judged in in_order(verdicts).items():
            own = np.intersect1d(rows, judged.answers)
            if len(own):
                part = bootstrap.subset(np.searchsorted(rows, own))
                report[kind][name] = {metric: part.interval(judged.at(own, metric)).as_dict() for metric in METRICS[:3]}
    return report


def unanswered(answers: Mapping[str, Ints], prompts: Sequence[Prompt]) -> dict[str, dict[str, Any]]:
    """Variants without neighbors for some of the prompts, which their columns leave out.

    Args:
        answers: by variant, (n,) numbers of the prompts that its images answer.
        prompts: N of the run.

    Returns:
        Variant -> {"count", "why", "prompts": their ids}.
    """
    report = {}
    for name, rows in answers.items():
        missing = np.setdiff1d(np.arange(len(prompts)), rows)
        if len(missing):
            ids = [prompts[number].prompt_id for number in missing]
            report[name] = {"count": len(ids), "why": why_without(name), "prompts": ids}
    return report


def notes(
    table: Table, frechet_name: str, absent: Mapping[str, str], without: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """What the table does not show and why, one sentence each.

    Args:
        table: of `distance_table`, with `num_images`.
        frechet_name: how the Frechet distance is called in it.
        absent: variants that cannot be, and why.
        without: of `unanswered`.
    """
    sentences = [f"{name}: no such column, {reason}" for name, reason in absent.items()]
    sentences += [
        f"{name}: {row['count']} of {row['count'] + table[name]['num_images']} prompts are left out, {row['why']}"
        for name, row in without.items()
    ]
    for key, name in (("kid", "KID"), ("frechet", frechet_name)):
        short = [f"{variant} {row['num_images']}" for variant, row in table.items()
                 if variant != REFERENCE and row["num_images"] < LEAST[key]]  # fmt: skip
        if short:
            sentences.append(
                f"{name} is not told: expected at least {LEAST[key]} images of a variant, got {', '.join(short)}; with "
                "fewer it says more of which pictures they are than of the generator. Hold out more pairs "
                "(corpus.split.test)"
            )
    return sentences


def merge(*tables: Table) -> Table:
    """Columns of several `tables` of the same variants in one."""
    return {name: {key: value for table in tables for key, value in table[name].items()} for name in tables[0]}


def in_order(variants: Mapping[str, T]) -> dict[str, T]:
    """Entries of `variants` in the order of the report."""
    known = [name for name in ORDER if name in variants]
    return {name: variants[name] for name in [*known, *sorted(set(variants) - set(known))]}


def as_csv(table: Table) -> str:
    """Accuracies of `table` as CSV with rows `variant,metric,mean,low,high`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for name, metrics in table.items():
        for metric in METRICS:
            value = metrics.get(metric)
            if value is not None:
                writer.writerow([name, metric, value["mean"], value["low"], value["high"]])
    return text.getvalue()


def flat_metrics(table: Table) -> dict[str, float]:
    """`variant.metric` to its mean in `table`, for a tracker."""
    flat: dict[str, float] = {}
    for name, metrics in table.items():
        for metric, value in metrics.items():
            if isinstance(value, dict):
                flat[f"{name}.{metric}"] = value["mean"]
            elif isinstance(value, float):
                flat[f"{name}.{metric}"] = value
    return flat


def flat_rows(table: Table) -> list[dict[str, object]]:
    """One row a variant and metric of `table`, for a tracker's table."""
    rows: list[dict[str, object]] = []
    for name, metrics in table.items():
        for metric, value in metrics.items():
            if isinstance(value, dict):
                rows.append({"variant": name, "metric": metric, **value})
            elif isinstance(value, float):
                rows.append({"variant": name, "metric": metric, "mean": value, "low": None, "high": None})
    return rows


def verdict(compared: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Plain words: does the retrieving model beat no neighbors and the copied, repainted neighbor on joint accuracy?

    Args:
        compared: of `differences`.
    """
    parts = []
    for key, words in (("retrieved-none", "no neighbors"), ("retrieved-copied_snap", "the copied, repainted neighbor")):
        if key in compared:
            parts.append(_compare(words, Interval(**compared[key]["joint"])))
    if not parts:
        return "nothing to compare: the variants `retrieved` and `none` are not both there"
    return "; ".join(parts)


def _compare(words: str, difference: Interval) -> str:
    interval = f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
    if difference.low > 0:
        return f"retrieved beats {words} on joint accuracy by {interval}"
    if difference.high < 0:
        return f"retrieved is worse than {words} on joint accuracy by {interval}"
    return f"retrieved does not beat {words} on joint accuracy: {interval} holds zero"


HEADLINE = ("joint", "entity", "style", "kid", "own_real_nearest", "prompt_agreement")  # a table that one can read


def headline(report: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Of `report` the means of `HEADLINE` by variant, and the differences in joint accuracy."""
    means: dict[str, dict[str, float]] = {}
    for name, value in flat_metrics(report["variants"]).items():
        variant, metric = name.split(".")
        if metric in HEADLINE:
            means.setdefault(variant, {})[metric] = value
    joint = {name: values["joint"]["mean"] for name, values in report.get("differences", {}).items()}
    return means | ({"difference": joint} if joint else {})
