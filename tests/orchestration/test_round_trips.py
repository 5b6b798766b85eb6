"""Whoever starts the work, and however a state comes back, DVC and Dagster agree, and nothing is made twice."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.data_version import StaleStatus

from rag_diffusion.orchestration.project import Project
from rag_diffusion.orchestration.sync import sync
from tests.orchestration.projects import commit, dvc, materialize, ran, stale


@pytest.fixture
def instance(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """Dagster's memory, the same for its own runs and for `sync`."""
    monkeypatch.setenv("DAGSTER_HOME", environment["DAGSTER_HOME"])
    with dg.DagsterInstance.get() as found:
        yield found


def change(project: Path, size: int, stage: str = "finetune") -> None:
    params = yaml.safe_load((project / "params.yaml").read_text())
    params[stage]["size"] = size
    (project / "params.yaml").write_text(yaml.safe_dump(params))


def locked(project: Path) -> dict[str, dict[str, object]]:
    stages: dict[str, dict[str, object]] = yaml.safe_load((project / "dvc.lock").read_text())["stages"]
    return stages


def same_truth(project: Path, instance: dg.DagsterInstance, environment: dict[str, str]) -> list[str]:
    """After a sync both name the same stages out of date. Returns what the sync told Dagster."""
    loaded = Project.load(project)
    told = sync(instance, loaded)
    assert sync(instance, loaded) == [], "a second sync is silent"
    would_run = json.loads(dvc(project, environment, "status", "--json"))
    assert {name for name, status in stale(instance, loaded).items() if status != StaleStatus.FRESH} == set(would_run)
    return told


@pytest.mark.slow
def test_an_edited_parameter_marks_what_dvc_would_run_and_only_that_is_made(
    made: Path, project_root: Path, environment: dict[str, str], instance: dg.DagsterInstance
) -> None:
    assert len(same_truth(made, instance, environment)) == 13
    before = locked(made)
    ran(made)

    change(made, 2, "baselines")
    assert same_truth(made, instance, environment) == []
    assert set(json.loads(dvc(made, environment, "status", "--json"))) == {"baselines"}
    assert materialize(project_root, environment).startswith("0\n")
    assert ran(made) == ["baselines", "score"]
    after = locked(made)
    assert {name for name in after if after[name] != before[name]} == {"baselines", "score"}
    assert json.loads(dvc(made, environment, "status", "--json")) == {}
    assert same_truth(made, instance, environment) == []
    dvc(made, environment, "repro")
    assert ran(made) == []


@pytest.mark.slow
def test_experiments_queues_and_checkouts_keep_it_so(
    made: Path, environment: dict[str, str], instance: dg.DagsterInstance
) -> None:
    late = {"finetune", "sample", "score", "sweep@alternate-3"}
    commit(made, environment)
    same_truth(made, instance, environment)
    ran(made)

    dvc(made, environment, "exp", "run", "--name", "two", "-S", "finetune.size=2")
    assert set(ran(made)) == late
    assert set(same_truth(made, instance, environment)) == late

    dvc(made, environment, "exp", "run", "--queue", "--name", "three", "-S", "finetune.size=3")
    dvc(made, environment, "exp", "run", "--run-all")
    assert same_truth(made, instance, environment) == [], "it ran in a folder of its own"
    assert ran(made) == []

    dvc(made, environment, "exp", "apply", "three")
    assert set(same_truth(made, instance, environment)) == late
    dvc(made, environment, "repro")
    assert ran(made) == [], "the queue has made it"

    subprocess.run(["git", "checkout", "-q", "--force", "."], cwd=made, check=True)
    dvc(made, environment, "checkout", "--force")
    assert set(same_truth(made, instance, environment)) == late
    change(made, 2)
    assert same_truth(made, instance, environment) == []
    dvc(made, environment, "repro")
    assert ran(made) == [], "the run-cache has it"
    assert set(same_truth(made, instance, environment)) == late
