"""Results that come from a DVC remote, and what DVC's own commands show of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

from rag_diffusion.orchestration.metadata import stage_metadata
from rag_diffusion.orchestration.project import Project
from tests.orchestration.projects import commit, dvc, ran


@pytest.fixture
def pushed(made: Path, environment: dict[str, str], tmp_path: Path) -> Path:
    """The project, run with two seeds, all of it in git and in a remote; seed 1 is the present one."""
    dvc(made, environment, "remote", "add", "-d", "shared", str(tmp_path / "remote"))
    commit(made, environment)
    change(made, seed=1)
    dvc(made, environment, "repro")
    ran(made)
    commit(made, environment)
    dvc(made, environment, "push", "--run-cache", "--all-commits")
    return made


def change(project: Path, **values: object) -> None:
    params = yaml.safe_load((project / "params.yaml").read_text())
    (project / "params.yaml").write_text(yaml.safe_dump(params | values))


def nothing_to_do(root: Path, environment: dict[str, str]) -> bool:
    clean = json.loads(dvc(root, environment, "status", "--json")) == {}
    dvc(root, environment, "repro")
    return clean and ran(root) == []


@pytest.mark.slow
def test_what_was_pushed_comes_back_and_nothing_is_recomputed(
    pushed: Path, environment: dict[str, str], tmp_path: Path, project_root: Path
) -> None:
    outs = Path(".dvc/cache"), *(Path(out) for out in ("data/corpus", "data/model", "data/runs", "reports/sheets"))
    for out in outs:
        shutil.rmtree(pushed / out)
    assert json.loads(dvc(pushed, environment, "status", "--json")) != {}
    dvc(pushed, environment, "pull")
    assert nothing_to_do(pushed, environment)

    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(pushed), str(clone)], check=True)
    dvc(clone, environment, "pull", "--run-cache")
    assert nothing_to_do(clone, environment)

    made_by = json.loads((clone / "data/runs/sample.run.json").read_text())["made_from"]
    change(clone, seed=0)
    dvc(clone, environment, "repro", "--pull")
    assert ran(clone) == ["ingest", "score"], "but the one whose out stays in place, and the one whose metrics git has"
    former = subprocess.run(["git", "show", "HEAD~1:dvc.lock"], cwd=clone, capture_output=True, text=True, check=True)
    before, now = (yaml.safe_load(text)["stages"] for text in (former.stdout, (clone / "dvc.lock").read_text()))
    assert before.pop("ingest")["outs"][0] == now.pop("ingest")["outs"][0]
    assert before == now
    assert json.loads((clone / "data/runs/sample.run.json").read_text())["made_from"] != made_by

    shown = stage_metadata(clone, Project.load(clone).stages["finetune"])
    assert shown["mlflow_run"] == "0" * 32
    assert "does not have that run" in shown["mlflow_store"]
    assert not any(isinstance(value, dg.UrlMetadataValue) for value in shown.values())
    command = [sys.executable, "-m", "rag_diffusion", "lineage", "data/model", "--root", str(clone)]
    told = subprocess.run(command, cwd=project_root, env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert f"run_id         {'0' * 32}\n  mlflow_store   this store" in told.stdout


@pytest.mark.slow
def test_what_changed_between_two_commits_is_shown(pushed: Path, environment: dict[str, str]) -> None:
    metrics = json.loads(dvc(pushed, environment, "metrics", "diff", "--json", "HEAD~1"))
    assert set(metrics) == {"reports/scores.json", "reports/sweep/alternate-3.json"}
    high = metrics["reports/scores.json"]["variants.none.joint.high"]
    assert high["diff"] == pytest.approx(high["new"] - high["old"]) != 0
    params = json.loads(dvc(pushed, environment, "params", "diff", "--json", "HEAD~1"))
    assert params == {"params.yaml": {"seed": {"old": 0, "new": 1, "diff": 1}}}

    dvc(pushed, environment, "plots", "diff", "HEAD~1", "-o", "page")
    page = (pushed / "page/index.html").read_text()
    assert "fine-tuning loss" in page
    pictures = sorted(path.name for path in (pushed / "page/static").iterdir())
    assert [name for name in pictures if name.endswith("retrieved.png")] == [
        "HEAD~1_reports_sheets_retrieved.png",
        "workspace_reports_sheets_retrieved.png",
    ]
    sheets = {(pushed / "page/static" / name).read_bytes() for name in pictures if "retrieved" in name}
    assert len(sheets) == 2, "the old picture beside the new one"

    table = dvc(pushed, environment, "exp", "show", "--csv")
    head = table.splitlines()[0].split(",")
    assert {"seed", "reports/scores.json:variants.none.joint.mean"} <= set(head)
