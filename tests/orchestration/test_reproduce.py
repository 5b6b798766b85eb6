"""Dagster runs the stages of a small DVC project, through real Dagster and real DVC processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest
import yaml

from rag_diffusion.orchestration.metadata import numbers
from rag_diffusion.orchestration.project import Project
from rag_diffusion.orchestration.reproduce import repro
from rag_diffusion.orchestration.smoke import run_apart
from tests.orchestration.projects import JOB, dvc, latest, logged, materialize, ran, running


@pytest.mark.slow
def test_materialize_all_is_dvc_repro(
    project: Path,
    project_root: Path,
    environment: dict[str, str],
    instance: dg.DagsterInstance,
) -> None:
    """And what Dagster made itself is no news to a sync."""
    command = [sys.executable, "-m", "rag_diffusion.orchestration.sync", str(project)]

    def told() -> str:
        return subprocess.run(command, cwd=project_root, env=environment, capture_output=True, text=True).stdout

    assert told() == "told Dagster of base, ruler, upsampler\n"
    shown = materialize(project_root, environment)
    assert shown.startswith("0\n"), shown[-5000:]

    assert told() == "Dagster knows everything that lies here\n"
    first = ran(project)
    assert sorted(first) == sorted(Project.load(project).stages)
    for name, stage in Project.load(project).stages.items():
        assert all(first.index(up) < first.index(name) for up in stage.upstream)
    assert json.loads(dvc(project, environment, "status", "--json")) == {}
    dvc(project, environment, "repro")
    assert ran(project) == [], "a plain `dvc repro` finds nothing to do"

    assert "dagster - INFO - __ASSET_JOB" in shown
    written = yaml.safe_load((project / "dvc.yaml").read_text())["stages"]
    for name in first:
        count = len(written[name.split("@")[0]]["deps"])
        assert f"{name}: {count}/{count} dep (100%)" in logged(shown), "progress reaches Dagster's log"
    assert "did not receive any messages" not in shown

    outs = yaml.safe_load((project / "dvc.lock").read_text())["stages"]["ingest"]["outs"]
    corpus = next(out["md5"] for out in outs if out["path"] == "data/corpus")
    event = latest(instance, "ingest")
    assert event.tags is not None
    assert event.tags["dagster/data_version"] == corpus
    assert event.metadata["mlflow_run"].value == "0" * 32
    assert event.metadata["data/corpus"].value == str(project / "data/corpus")
    assert event.metadata["ran"].value is True
    assert latest(instance, "score").metadata["none/joint"].value == 0.5
    picture = latest(instance, "sample").metadata["retrieved"].value
    assert str(picture).startswith("![retrieved](data:image/webp;base64,")
    assert "cannot be shown" in str(latest(instance, "score").metadata["accuracy"].value)

    shown = materialize(project_root, environment)
    assert shown.startswith("0\n"), shown[-5000:]
    assert ran(project) == [], "a second time nothing runs"
    assert latest(instance, "ingest").metadata["ran"].value is False
    assert "did not receive any messages" not in shown


@pytest.mark.slow
def test_a_stage_that_fails_fails_its_asset_with_the_end_of_its_output(
    project: Path, project_root: Path, environment: dict[str, str], instance: dg.DagsterInstance
) -> None:
    (project / "fail-align").touch()
    shown = materialize(project_root, environment)

    assert not shown.startswith("0\n")
    assert ran(project) == ["ingest", "align"]
    assert "this stage was told to fail" in shown
    assert "dvc repro align ended with exit code" in shown

    (project / "fail-align").unlink()
    assert materialize(project_root, environment, "--select", "ingest,align").startswith("0\n")
    assert ran(project) == ["align"], "what was done stays done"


@pytest.mark.slow
def test_a_stage_that_was_killed_is_started_again(
    project: Path, project_root: Path, environment: dict[str, str], instance: dg.DagsterInstance
) -> None:
    (project / "kill-align").touch()
    shown = materialize(project_root, environment, "--select", "ingest,align")

    assert shown.startswith("0\n"), shown[-5000:]
    assert ran(project) == ["ingest", "align", "align"]


@pytest.mark.slow
def test_an_asset_without_its_upstream_says_what_to_materialize_first(
    project: Path, project_root: Path, environment: dict[str, str], instance: dg.DagsterInstance
) -> None:
    shown = materialize(project_root, environment, "--select", "embed")

    assert not shown.startswith("0\n")
    assert "expected data/encoder, data/corpus, found none; materialize align, ingest first" in shown
    assert ran(project) == []


@pytest.mark.slow
def test_a_cancelled_run_leaves_no_process_and_starts_no_other_stage(
    project: Path, project_root: Path, environment: dict[str, str], instance: dg.DagsterInstance
) -> None:
    (project / "sleep-baselines").touch()
    (project / "sleep-finetune").touch()
    with subprocess.Popen(
        JOB, cwd=project_root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        wait_for(project / "sleeping")
        assert running(project)
        process.send_signal(signal.SIGINT)
        process.wait(60)

    assert not running(project)
    assert len({"baselines", "finetune"} & set(ran(project))) == 1
    (record,) = instance.get_run_records()
    assert record.dagster_run.status in (dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.FAILURE)
    (project / "sleep-baselines").unlink()
    (project / "sleep-finetune").unlink()
    selected = ["--select", "baselines,finetune"]
    assert materialize(project_root, environment, *selected).startswith("0\n"), "it goes on where it was"


@pytest.mark.slow
def test_it_waits_while_another_dvc_process_works_on_the_stage(project: Path, environment: dict[str, str]) -> None:
    (project / "sleep-ingest").touch()
    command = [sys.executable, "-m", "dvc", "repro", "ingest"]
    with subprocess.Popen(
        command, cwd=project, env=environment, start_new_session=True, stdout=subprocess.DEVNULL
    ) as other:
        wait_for(project / "sleeping")
        outcome = repro(project, "ingest", environment)
        os.killpg(other.pid, signal.SIGKILL)

    assert outcome.busy, outcome.tail
    (project / "sleep-ingest").unlink()
    assert repro(project, "ingest", environment).code == 0, "a killed process blocks nobody"


@pytest.mark.slow
def test_an_experiment_can_set_a_parameter(project: Path, environment: dict[str, str]) -> None:
    """Fails where dvc's hydra and dagster's parser disagree about the antlr runtime."""
    for command in (
        ["add", "-A"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "a"],
    ):
        subprocess.run(["git", *command], cwd=project, check=True)
    dvc(project, environment, "exp", "run", "-S", "seed=7", "ingest")

    assert yaml.safe_load((project / "params.yaml").read_text())["seed"] == 7
    assert ran(project) == ["ingest"]


@pytest.mark.slow
def test_a_smoke_run_leaves_the_workspace_and_its_results_alone(made: Path, environment: dict[str, str]) -> None:
    who = (["config", "user.name", "t"], ["config", "user.email", "t@t"])  # DVC stashes in that name
    for command in (*who, ["add", "-A"], ["commit", "-qm", "a"]):
        subprocess.run(["git", *command], cwd=made, check=True)
    lock = (made / "dvc.lock").read_text()

    shown = run_apart(made, "smoke-test", {"seed": 9}, environment)
    assert "Running stage 'score'" in shown
    assert (made / "dvc.lock").read_text() == lock
    assert yaml.safe_load((made / "params.yaml").read_text())["seed"] == 0
    assert "smoke-test" not in dvc(made, environment, "exp", "list", "--name-only")

    (made / "fail-score").touch()
    subprocess.run(["git", "add", "-A"], cwd=made, check=True)
    with pytest.raises(dg.Failure, match="this stage was told to fail"):
        run_apart(made, "smoke-test", {"seed": 10}, environment)


def wait_for(path: Path, seconds: float = 90.0) -> None:
    give_up = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < give_up, f"{path} never came"
        time.sleep(0.1)


def test_numbers_of_a_report_keep_means_and_leave_intervals() -> None:
    report = {
        "variants": {"none": {"joint": {"mean": 0.5, "low": 0.1, "high": 0.9}, "kid": 0.25}},
        "prompts": 120,
        "extractor": "embedded",
        "ok": True,
    }
    assert numbers(report) == {"none/joint": 0.5, "none/kid": 0.25, "prompts": 120.0}
