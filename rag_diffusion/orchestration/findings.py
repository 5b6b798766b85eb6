"""What must hold of what lies in a project, as functions of its folder; Dagster's checks call them.

What stages made is read from the files themselves, not through the code that wrote them.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from rag_diffusion.knowledge.catalogue import Catalogue
from rag_diffusion.knowledge.folders import DataSetFolders
from rag_diffusion.knowledge.snapshot import unsaved
from rag_diffusion.layout import CHAMPION, CORPUS, INDEX, NEIGHBORS, REPORTS, VECTORS
from rag_diffusion.orchestration.project import LastRun, Project
from rag_diffusion.store.manifest import CORPUS_NAME

MEASURED_BY = ("corpus_hash", "ruler_sha256", "prompts")  # two tables agree in these, or say nothing of each other
_TOLERANCE = 1e-3  # of a vector's length
_NUM_EXAMPLES = 5
_ENLARGED = 0.01  # of accuracy, that enlarging may cost


@dataclass(frozen=True)
class Finding:
    """Whether it holds, in words, and the numbers behind it."""

    passed: bool
    description: str
    numbers: Mapping[str, float] = field(default_factory=dict)


def corpus_is_whole(root: Path) -> Finding:
    """There are pairs, each with a caption, and no family stands in two splits.

    Args:
        root: of the project.
    """
    table = _pairs(root, ["pair_id", "caption", "family", "split"])
    splits: dict[str, set[str]] = {}
    for family, split in zip(table["family"], table["split"], strict=True):
        splits.setdefault(family, set()).add(split)
    torn = sorted(family for family, of_family in splits.items() if len(of_family) > 1)
    silent = [name for name, caption in zip(table["pair_id"], table["caption"], strict=True) if not caption.strip()]
    counts = {split: float(table["split"].count(split)) for split in sorted(set(table["split"]))}
    problems = _problem("no pairs", ["corpus"] if not table["pair_id"] else [])
    problems += _problem("families in two splits", torn) + _problem("pairs without a caption", silent)
    return _finding(problems, f"{len(table['pair_id'])} pairs, every family in one split", counts)


def vectors_are_unit(root: Path) -> Finding:
    """Every vector is finite and of length 1, one of each kind for every pair.

    Args:
        root: of the project.
    """
    import numpy as np
    from safetensors.numpy import load_file

    arrays = load_file(root / VECTORS / "vectors.safetensors")
    count = len(_pairs(root, ["pair_id"])["pair_id"])
    problems, numbers = [], {}
    for name, vectors in arrays.items():
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        bad = ~np.isfinite(lengths) | (np.abs(lengths - 1) > _TOLERANCE)
        problems += _problem(f"{name} vectors that are not finite and of length 1, rows", np.flatnonzero(bad).tolist())
        problems += _problem(f"expected {count} {name} vectors, got", [len(vectors)] if len(vectors) != count else [])
        numbers[f"{name}_dim"] = float(vectors.shape[1])
    return _finding(problems, f"{count} unit vectors of each kind", numbers)


def recall_is_high(root: Path) -> Finding:
    """The index finds what exhaustive search finds, as often as `index.min_recall` asks.

    Args:
        root: of the project.
    """
    report = json.loads((root / INDEX / "recall.json").read_text(encoding="utf-8"))
    least = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))["index"]["min_recall"]
    recalls = {name: float(value) for name, value in report.items() if name.startswith("recall_")}
    low = [f"{name} {value:.3f}" for name, value in recalls.items() if not value >= least]
    return _finding(_problem(f"recall below {least}", low), f"recall of at least {least}", recalls)


def no_pair_is_its_own_neighbor(root: Path) -> Finding:
    """Nor a near-duplicate of it.

    Args:
        root: of the project.
    """
    import pyarrow.parquet as pq

    table = _pairs(root, ["pair_id", "duplicate_group"])
    group = dict(zip(table["pair_id"], table["duplicate_group"], strict=True))
    own, count = [], 0
    for name in ("training", "validation"):
        lists = pq.read_table(root / NEIGHBORS / f"{name}.parquet", columns=["pair_id", "neighbors"]).to_pydict()
        for pair, neighbors in zip(lists["pair_id"], lists["neighbors"], strict=True):
            count += 1
            own += [pair] if any(neighbor == pair or group[neighbor] == group[pair] for neighbor in neighbors) else []
    return _finding(_problem("pairs that are their own neighbors", own), f"{count} lists without their own pair", {})


def no_target_is_shown(root: Path) -> Finding:
    """No prompt is shown what it asks for: the knowledge base is not contaminated by targets.

    Args:
        root: of the project.
    """
    prompts = json.loads((root / NEIGHBORS / "prompts.json").read_text(encoding="utf-8"))
    leaking = [
        name
        for name, entry in prompts.items()
        if set(entry["exclude"]) & {*entry["retrieved"], *entry["oracle"], *entry["random"], *entry.get("style", ())}
    ]
    problems = _problem("prompts that are shown their target", leaking)
    return _finding(problems, f"{len(prompts)} prompts without leak", {})


def loss_is_finite_and_falls(root: Path) -> Finding:
    """The last quarter of the fine-tuning is not worse than the first by more than a tenth.

    Args:
        root: of the project.
    """
    with (root / REPORTS / "plots" / "loss.csv").open(encoding="utf-8") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    if not losses:
        return Finding(True, "no steps of fine-tuning: the base as it is")
    quarter = max(1, len(losses) // 4)
    first, last = (sum(part) / len(part) for part in (losses[:quarter], losses[-quarter:]))
    wild = [f"step {number}" for number, loss in enumerate(losses, 1) if not math.isfinite(loss)]
    risen = [f"{first:.4f} -> {last:.4f}"] if last > 1.1 * first else []
    problems = _problem("losses that are not finite", wild) + _problem("the loss has risen", risen)
    return _finding(problems, f"loss {first:.4f} -> {last:.4f}", {"first_quarter": first, "last_quarter": last})


def retrieval_helps(root: Path) -> Finding:
    """Joint accuracy with retrieved neighbors is above that without, by an interval above zero.

    Args:
        root: of the project.
    """
    report = json.loads((root / REPORTS / "metrics.json").read_text(encoding="utf-8"))
    if report.get("reason"):
        return Finding(True, f"not judged: {report['reason']}")
    gain = report["differences"]["retrieved-none"]["joint"]
    difference = f"retrieved - none: {gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"
    return Finding(gain["low"] > 0, difference, {"gain": float(gain["mean"])})


def enlarging_keeps_what_is_drawn(root: Path) -> Finding:
    """Pictures of a cascade, scaled down again, are right as often as what its first stage drew, but for .01.

    Args:
        root: of the project.
    """
    report = json.loads((root / REPORTS / "metrics.json").read_text(encoding="utf-8"))
    cascade = report.get("cascade")
    if cascade is None:
        return Finding(True, f"not judged: {report.get('reason') or 'the model is no cascade'}")
    of_variant = cascade["changes"].get("retrieved") or next(iter(cascade["changes"].values()))
    changes = {name: float(of_variant[name]) for name in ("joint", "entity", "style")}
    low = [f"{name} {change:+.3f}" for name, change in changes.items() if change < -_ENLARGED]
    kept = ", ".join(f"{name} {change:+.3f}" for name, change in changes.items())
    return _finding(_problem("fallen by more than .01", low), f"{cascade['image_size']} px: {kept}", changes)


def no_worse_than_the_champion(root: Path) -> Finding:
    """What was promoted did not score above this table's interval, where both were measured on the same prompts.

    Args:
        root: of the project.
    """
    path = root / CHAMPION
    if not path.is_file():
        return Finding(True, "nothing has been promoted yet")
    champion = json.loads(path.read_text(encoding="utf-8"))
    report = json.loads((root / REPORTS / "metrics.json").read_text(encoding="utf-8"))
    if report.get("reason"):
        return Finding(True, f"not judged: {report['reason']}")
    number, before = champion["version"], champion["score"]
    other = [key for key in MEASURED_BY if report[key] != before[key]]
    if other or before["joint"] is None:
        return Finding(True, f"cannot be compared with version {number}: other {', '.join(other) or 'corpus'}")
    new, old = report["variants"]["retrieved"]["joint"], float(before["joint"])
    comparison = f"joint {new['mean']:.3f} [{new['low']:.3f}, {new['high']:.3f}], promoted version {number} {old:.3f}"
    return Finding(old <= new["high"], comparison, {"joint": float(new["mean"]), "promoted": old})


def every_data_set_can_be_searched(root: Path) -> Finding:
    """The files of every data set are there, its vectors of the present encoder, its images of the present size.

    Args:
        root: of the project.
    """
    if not DataSetFolders(root).names():
        return Finding(True, "no data set")
    listed = [entry for entry in Catalogue.light(root).list() if entry.manifest.name != CORPUS_NAME]
    problems = [f"{entry.manifest.name}: {entry.trouble}" for entry in listed if entry.trouble]
    return _finding(problems, f"{len(listed)} data sets can be searched", {"data_sets": float(len(listed))})


def every_data_set_is_in_a_snapshot(root: Path) -> Finding:
    """DVC tracks the present version of every data set, so that what was drawn with it can be drawn again.

    Args:
        root: of the project.
    """
    names = DataSetFolders(root).names()
    problems = _problem(
        "versions in no snapshot, `rag-diffusion kb snapshot` keeps them: data sets",
        [name for name in names if unsaved(root, name) is not None],
    )
    return _finding(problems, f"{len(names)} data sets, all in snapshots", {})


def upstream_is_clean(root: Path, stage: str) -> Finding:
    """What it was made from is what lies there now, and was made by the code and parameters that lie there now.

    Args:
        root: of the project.
        stage: its name, as in dvc.yaml.
    """
    project = Project.load(root)
    last_runs = project.last_runs()
    problems = []
    for name in _ancestors(project, stage):
        if name not in last_runs:
            problems += _problem("never run", [name])
            continue
        old = [up for up, read in last_runs[name].inputs.items() if read != _version(project, last_runs, up)]
        problems += _problem(f"{name} was made from other versions of", old)
        if name != stage and last_runs[name].code_version != project.stages[name].code_version:
            problems += _problem("made by other code or parameters", [name])
    return _finding(problems, "everything upstream is as dvc.lock has it", {})


def _version(project: Project, last_runs: Mapping[str, LastRun], name: str) -> str | None:
    if name not in project.stages:
        return project.external.get(name)
    return last_runs[name].data_version if name in last_runs else None


def _ancestors(project: Project, stage: str) -> list[str]:
    """The stage and all that it depends on, first things first."""
    needed = {stage}
    for name in reversed(list(project.stages)):
        if name in needed:
            needed |= set(project.stages[name].upstream)
    return [name for name in project.stages if name in needed]


def _pairs(root: Path, columns: list[str]) -> dict[str, list[str]]:
    import pyarrow.parquet as pq

    table: dict[str, list[str]] = {column: [] for column in columns}
    for shard in sorted((root / CORPUS).glob("pairs-*.parquet")):
        for column, values in pq.read_table(shard, columns=columns).to_pydict().items():
            table[column] += values
    return table


def _problem(what: str, examples: Iterable[object]) -> list[str]:
    """A sentence where something was found."""
    names = list(examples)
    more = f" and {len(names) - _NUM_EXAMPLES} more" if len(names) > _NUM_EXAMPLES else ""
    return [f"{what}: {', '.join(map(str, names[:_NUM_EXAMPLES]))}{more}"] if names else []


def _finding(problems: list[str], good: str, numbers: Mapping[str, float]) -> Finding:
    return Finding(not problems, "; ".join(problems) or good, numbers)
