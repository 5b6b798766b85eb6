"""Which findings belong to which asset, and their verdicts on what a shell made, as Dagster keeps them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import dagster as dg
from dagster import AssetCheckEvaluation, MetadataValue
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData

from rag_diffusion.orchestration import findings
from rag_diffusion.orchestration.data_sets import DATA_SETS
from rag_diffusion.orchestration.findings import Finding
from rag_diffusion.orchestration.project import Project
from rag_diffusion.orchestration.reproduce import asset_key

Judge = Callable[[Path], Finding]

BLOCKING: dict[str, list[Judge]] = {
    "ingest": [findings.corpus_is_whole],
    "embed": [findings.vectors_are_unit],
    "index": [findings.recall_is_high],
    "neighbors": [findings.no_pair_is_its_own_neighbor, findings.no_target_is_shown],
}
WARNING: dict[str, list[Judge]] = {
    "finetune": [findings.loss_is_finite_and_falls],
    "score": [findings.retrieval_helps, findings.enlarging_keeps_what_is_drawn, findings.no_worse_than_the_champion],
    DATA_SETS: [findings.every_data_set_can_be_searched, findings.every_data_set_is_in_a_snapshot],
}


@dataclass(frozen=True, kw_only=True)
class Check:
    """A finding that is asked of an asset.

    Attributes:
        asset: name of the stage, or `kb`.
        name: of the check.
        description: what must hold.
        judge: asks it of a project's folder.
        blocking: whether nothing is built on the asset where it does not hold.
    """

    asset: str
    name: str
    description: str
    judge: Judge
    blocking: bool

    @property
    def severity(self) -> dg.AssetCheckSeverity:
        """Of a check that does not pass."""
        return dg.AssetCheckSeverity.ERROR if self.blocking else dg.AssetCheckSeverity.WARN


def checks(project: Project) -> Iterator[Check]:
    """All checks; every stage of `project` that reads something is also asked whether that is up to date."""
    for asset, judges in BLOCKING.items():
        yield from (_check(asset, judge, judge, blocking=True) for judge in judges)
    for asset, judges in WARNING.items():
        yield from (_check(asset, judge, judge, blocking=False) for judge in judges)
    clean = findings.upstream_is_clean
    for name, stage in project.stages.items():
        if stage.reads:
            yield _check(name, clean, partial(clean, stage=name), blocking=False)


def verdicts(instance: dg.DagsterInstance, project: Project, name: str) -> Iterator[AssetCheckEvaluation]:
    """Every check of an asset, judged on what lies there now; none where its result is not there.

    Args:
        instance: Dagster's memory, which knows the materialization that is judged.
        project: as it is on disk.
        name: of the stage, or `kb`.
    """
    outs = project.stages[name].outs if name in project.stages else ()
    records = instance.fetch_materializations(asset_key(name), limit=1).records
    if not records or not all((project.root / out).exists() for out in outs):
        return
    target = AssetCheckEvaluationTargetMaterializationData(
        storage_id=records[0].storage_id, run_id=records[0].run_id, timestamp=records[0].timestamp
    )
    for check in checks(project):
        if check.asset == name:
            finding = _judged(check.judge, project.root)
            yield AssetCheckEvaluation(
                asset_key=asset_key(name),
                check_name=check.name,
                passed=finding.passed,
                target_materialization_data=target,
                description=finding.description,
                metadata={key: MetadataValue.float(float(value)) for key, value in finding.numbers.items()},
                severity=check.severity,
                blocking=check.blocking,
            )


def _check(asset: str, function: Callable[..., Finding], judge: Judge, *, blocking: bool) -> Check:
    """The check that a function names, and the first paragraph of its docstring describes."""
    description = " ".join((function.__doc__ or "").split("\n\n")[0].split())
    return Check(asset=asset, name=function.__name__, description=description, judge=judge, blocking=blocking)


def _judged(judge: Judge, root: Path) -> Finding:
    """A finding; a file that cannot be read is one, too."""
    try:
        return judge(root)
    except Exception as error:  # of safetensors, pyarrow, yaml: a file that another program wrote can be anything
        return Finding(False, f"expected files that can be read, got {type(error).__name__}: {error}")
