"""Asset checks: `findings` beside the assets; a blocking one stops what would be built on a bad result."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import dagster as dg

from orchestration import findings
from orchestration.assets import PROJECT
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
    "score": [findings.retrieval_helps],
}


def asset_checks(project: Project = PROJECT) -> list[dg.AssetChecksDefinition]:
    """All checks; every stage that reads another one's outs is also asked whether those are up to date."""
    checks = [_check(project, stage, one, True) for stage, found in BLOCKING.items() for one in found]
    checks += [_check(project, stage, one, False) for stage, found in WARNING.items() for one in found]
    for name, stage in project.stages.items():
        if stage.upstream or stage.external:
            clean = partial(findings.upstream_is_clean, stage=name)
            clean.__name__, clean.__doc__ = "upstream_is_clean", findings.upstream_is_clean.__doc__  # type: ignore[attr-defined]
            checks.append(_check(project, name, clean, False))
    return checks


def _check(
    project: Project, stage: str, function: Callable[[Path], Finding], blocking: bool
) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=asset_key(stage),
        name=function.__name__,
        description=" ".join((function.__doc__ or "").split()),
        blocking=blocking,
    )
    def judged() -> dg.AssetCheckResult:
        found = function(project.root)
        severity = dg.AssetCheckSeverity.ERROR if blocking else dg.AssetCheckSeverity.WARN
        return dg.AssetCheckResult(
            passed=found.passed, description=found.description, metadata=dict(found.numbers), severity=severity
        )

    return judged
