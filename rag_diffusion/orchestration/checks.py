"""Asset checks: `findings` beside the assets; a blocking one stops what would be built on a bad result."""

import dagster as dg

from rag_diffusion.orchestration.assets import PROJECT
from rag_diffusion.orchestration.project import Project
from rag_diffusion.orchestration.reproduce import asset_key
from rag_diffusion.orchestration.verdicts import Check, checks


def asset_checks(project: Project = PROJECT) -> list[dg.AssetChecksDefinition]:
    """All checks of `project` as Dagster runs them."""
    return [_asset_check(project, check) for check in checks(project)]


def _asset_check(project: Project, check: Check) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=asset_key(check.asset), name=check.name, description=check.description, blocking=check.blocking
    )
    def judged() -> dg.AssetCheckResult:
        finding = check.judge(project.root)
        return dg.AssetCheckResult(
            passed=finding.passed,
            description=finding.description,
            metadata=dict(finding.numbers),
            severity=check.severity,
        )

    return judged
