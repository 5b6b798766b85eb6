"""Which findings belong to which stage, and their verdicts on what a shell made, as Dagster keeps them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import dagster as dg
from dagster import AssetCheckEvaluation, MetadataValue
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData

from orchestration import findings
from orchestration.findings import Finding
from orchestration.project import Project
from orchestration.reproduce import asset_key

BLOCKING: dict[str, list[Callable[[Path], Finding]]] = {
    "ingest": [findings.corpus_is_whole],
    "embed": [findings.vectors_are_unit],
    "index": [findings.recall_is_high],
    "neighbors": [findings.no_pair_is_its_own_neighbor, findings.no_target_is_shown],
}
WARNING: dict[str, list[Callable[[Path], Finding]]] = {
    "finetune": [findings.loss_is_finite_and_falls],
    "score": [findings.retrieval_helps, findings.no_worse_than_the_champion],
}


def verdicts(instance: dg.DagsterInstance, project: Project, name: str) -> Iterator[AssetCheckEvaluation]:
    """Every check of a stage, judged on what lies there now; none where its result is not there.

    Args:
        instance: Dagster's memory, which knows the materialization that is judged.
        project: as it is on disk.
        name: of the stage.
    """
    stage = project.stages[name]
    if not all((project.root / out).exists() for out in stage.outs):
        return
    asked: list[tuple[Callable[[Path], Finding], str, bool]] = [
        *((one, one.__name__, True) for one in BLOCKING.get(name, ())),
        *((one, one.__name__, False) for one in WARNING.get(name, ())),
    ]
    if stage.reads:
        asked.append((partial(findings.upstream_is_clean, stage=name), findings.upstream_is_clean.__name__, False))
    made = instance.fetch_materializations(asset_key(name), limit=1).records
    target = AssetCheckEvaluationTargetMaterializationData(
        storage_id=made[0].storage_id, run_id=made[0].run_id, timestamp=made[0].timestamp
    )
    for function, check, blocking in asked:
        yield _evaluation(name, check, _judged(function, project.root), blocking=blocking, target=target)


def _judged(function: Callable[[Path], Finding], root: Path) -> Finding:
    """A finding; a file that cannot be read is one, too."""
    try:
        return function(root)
    except Exception as error:  # of safetensors, pyarrow, yaml: a file that another program wrote can be anything
        return Finding(False, f"expected files that can be read, got {type(error).__name__}: {error}")


def _evaluation(
    name: str, check: str, found: Finding, *, blocking: bool, target: AssetCheckEvaluationTargetMaterializationData
) -> AssetCheckEvaluation:
    return AssetCheckEvaluation(
        asset_key=asset_key(name),
        check_name=check,
        passed=found.passed,
        target_materialization_data=target,
        description=found.description,
        metadata={key: MetadataValue.float(float(value)) for key, value in found.numbers.items()},
        severity=dg.AssetCheckSeverity.ERROR if blocking else dg.AssetCheckSeverity.WARN,
        blocking=blocking,
    )
