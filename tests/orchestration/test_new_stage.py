"""A new stage is an entry in dvc.yaml and a module; nothing else names it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import dagster as dg
import pytest
import yaml

from tests.orchestration.projects import dvc, latest, materialize

MODULE = '''"""Stage `count`: how many files there are."""
from rag_diffusion.files import atomic_write
from rag_diffusion.pipeline.context import StageContext

def run(ctx: StageContext) -> None:
    """Write reports/count.json."""
    found = len(list((ctx.root / "data/files").iterdir()))
    ctx.tracker.log_metrics({"files": found})
    atomic_write(ctx.root / "reports/count.json", f'{{"files": {found}}}')
'''
STAGE = {
    "desc": "How many files there are",
    "meta": {"family": "counts", "kind": "python", "pool": "gpu"},
    "cmd": "python -m rag_diffusion run count",
    "deps": ["rag_diffusion/stages/count.py", "data/files"],
    "params": ["seed"],
    "outs": ["data/runs/count.run.json"],
    "metrics": [{"reports/count.json": {"cache": False}}],
}


@pytest.mark.slow
def test_an_entry_in_dvc_yaml_and_a_module_make_an_asset(
    project: Path, project_root: Path, environment: dict[str, str], instance: dg.DagsterInstance
) -> None:
    shutil.rmtree(project / "rag_diffusion")
    shutil.copytree(project_root / "rag_diffusion", project / "rag_diffusion", ignore=shutil.ignore_patterns("*.pyc"))
    (project / "rag_diffusion/stages/count.py").write_text(MODULE)
    shutil.copy(project_root / "params.yaml", project)
    content = yaml.safe_load((project_root / "dvc.yaml").read_text())
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": content["stages"] | {"count": STAGE}}))
    (project / "data/files").mkdir()
    for number in range(3):
        (project / f"data/files/{number}").write_text(str(number))

    shown = materialize(project_root, environment, "--select", "count")
    assert shown.startswith("0\n"), shown[-5000:]

    made = latest(instance, "count").metadata
    assert made["files"].value == 3.0
    record = json.loads((project / "data/runs/count.run.json").read_text())
    assert (record["stage"], record["experiment"]) == ("count", "rag-diffusion/counts")
    assert made["mlflow_run"].value == record["run_id"] != ""
    assert json.loads(dvc(project, environment, "status", "--json", "count")) == {}
