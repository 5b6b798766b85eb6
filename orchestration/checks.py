"""Asset checks: `findings` beside the assets; a blocking one stops what would be built on a bad result."""

from collections.abc import Callable

import dagster as dg

from orchestration import findings
from orchestration.assets import PROJECT
from orchestration.findings import Finding
from orchestration.project import Project
from orchestration.reproduce import asset_key
from orchestration.verdicts import BLOCKING, WARNING


def asset_checks(project: Project = PROJECT) -> list[dg.AssetChecksDefinition]:
    """All checks; every stage that reads something is also asked whether what it was made from is up to date."""
    checks = [_check(project, stage, one, blocking=True) for stage, found in BLOCKING.items() for one in found]
    checks += [_check(project, stage, one, blocking=False) for stage, found in WARNING.items() for one in found]
    for name, stage in project.stages.items():
        if stage.reads:
            checks.append(_check(project, name, findings.upstream_is_clean, blocking=False, stage=name))
    return checks


def _check(
    project: Project, asset: str, function: Callable[..., Finding], *, blocking: bool, **more: str
) -> dg.AssetChecksDefinition:
    """The check named and described by a function of the project's folder and of `more`."""

    @dg.asset_check(
        asset=asset_key(asset),
        name=function.__name__,
        description=" ".join((function.__doc__ or "").split()),
        blocking=blocking,
    )
    def judged() -> dg.AssetCheckResult:
        found = function(project.root, **more)
        severity = dg.AssetCheckSeverity.ERROR if blocking else dg.AssetCheckSeverity.WARN
        return dg.AssetCheckResult(
            passed=found.passed, description=found.description, metadata=dict(found.numbers), severity=severity
        )

    return judged
