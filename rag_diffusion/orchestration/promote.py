"""`rag-diffusion promote`: the fine-tuned model becomes MLflow's `@champion`, if every check of the pipeline passes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rag_diffusion.config import load_config
from rag_diffusion.errors import ModelError, RagDiffusionError
from rag_diffusion.files import atomic_write
from rag_diffusion.layout import CHAMPION, REPORTS, RUNS
from rag_diffusion.orchestration.findings import MEASURED_BY, Finding, upstream_is_clean
from rag_diffusion.orchestration.project import Project
from rag_diffusion.orchestration.verdicts import checks

LAST = "score"


def promote(root: Path) -> str:
    """Check the project at `root`, register, move the alias, and note what was promoted in data/champion.json.

    Returns:
        What was done, in words.

    Raises:
        ModelError: a check does not pass; nothing was registered then. Or the registered model does not draw; the alias
            stays where it is then.
    """
    project = Project.load(root)
    failed = [f"{name}: {finding.description}" for name, finding in judged(root, project) if not finding.passed]
    if failed:
        raise ModelError(
            "promote: expected every check to pass, but\n  " + "\n  ".join(failed) + "\n@champion stays where it is"
        )
    from rag_diffusion.serving import registry

    last_runs = project.last_runs()
    report = json.loads((root / REPORTS / "metrics.json").read_text(encoding="utf-8"))
    score = scored(report)
    record = root / RUNS / "finetune.run.json"
    run = json.loads(record.read_text(encoding="utf-8")).get("run_id") if record.is_file() else None
    tags = {f"{label(name)}.data_version": run.data_version for name, run in last_runs.items()} | {
        f"retrieved.{name}": str(score[name]) for name in ("joint", "entity", "style")
    }
    version = registry.promote(root, load_config(root / "params.yaml"), run, tags)
    note = {"model": version.name, "version": version.number, "run_id": version.run_id, "score": score}
    atomic_write(root / CHAMPION, json.dumps(note, indent=1) + "\n")
    state = "registered" if version.new else "known already"
    return f"{version.name} version {version.number} ({state}) draws and is @{registry.CHAMPION}; commit {CHAMPION}"


def scored(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the champion's note keeps of a `report`, reports/metrics.json.

    Returns:
        What it was measured by, and the means of the variant `retrieved`: None where it was not judged, or not drawn.
    """
    retrieved = report["variants"].get("retrieved", {})
    means = {name: (retrieved.get(name) or {}).get("mean") for name in ("joint", "entity", "style")}
    return {key: report[key] for key in MEASURED_BY} | means


def label(stage: str) -> str:
    """The name of a `stage` as MLflow lets a tag be named: no `@`."""
    return stage.replace("@", "/")


def judged(root: Path, project: Project) -> Iterator[tuple[str, Finding]]:
    """Every check of the stages, and whether what the last one was made from is up to date, by asset and name.

    Args:
        root: the project's.
        project: as it is on disk.
    """
    for check in checks(project):
        if check.asset in project.stages and (check.name != upstream_is_clean.__name__ or check.asset == LAST):
            yield f"{check.asset}, {check.name}", check.judge(root)


if __name__ == "__main__":
    try:
        print(promote(Path.cwd()))
    except RagDiffusionError as error:
        sys.exit(f"error: {error}")
