"""DVC and Dagster killed at random moments, working at the same time, and moved, on the small project."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dvc.repo import Repo

from rag_diffusion.errors import DataError
from rag_diffusion.orchestration.dead_runs import fail_dead_runs
from rag_diffusion.orchestration.mend import SECONDS_BETWEEN_LOOKS, mend
from rag_diffusion.orchestration.project import Project
from rag_diffusion.tracking import STORE
from tests.orchestration.projects import ALL, KILLS, commit, dvc, materialize, processes, ran, running

DVC = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro"]
FIRST_STAGES = {"ingest", "align", "embed", "index"}
FIRST = ["--select", ",".join(sorted(FIRST_STAGES))]
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@pytest.fixture
def chance() -> random.Random:
    """Chooses moments; FAULT_SEED repeats a choice."""
    seed = int(os.environ.get("FAULT_SEED", random.randrange(10**6)))
    print(f"FAULT_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def undisturbed(all_run: Path) -> dict[str, str]:
    """Hashes of all outs of the project where nothing disturbs it."""
    return versions(all_run)


def versions(project: Path) -> dict[str, str]:
    """md5 of every out that dvc.lock knows; nothing where it does not know of a run."""
    lock = project / "dvc.lock"
    stages = (yaml.safe_load(lock.read_text()) or {}).get("stages", {}) if lock.exists() else {}
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}


def done(project: Path) -> set[str]:
    """Stages that dvc.lock knows; a DVC that outlived its parent may just be writing it."""
    return set(Project.load(project).last_runs())


def kill_after(command: list[str], folder: Path, environment: Mapping[str, str], seconds: float) -> bool:
    """Start a command and kill that process alone, after some seconds. Returns whether it was still at work."""
    process = subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **QUIET)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    return process.wait() == -signal.SIGKILL


def settle(project: Path, seconds: float = 60.0) -> None:
    """Wait until what outlived its parent has ended."""
    give_up = time.monotonic() + seconds
    while running(project):
        assert time.monotonic() < give_up, running(project)
        time.sleep(0.1)


def begin_again(project: Path) -> set[str]:
    """Forget every result. Returns what is done now."""
    (project / "dvc.lock").unlink()
    shutil.rmtree(project / ".dvc" / "cache")
    ran(project)
    return set()


@pytest.mark.parametrize("kills", KILLS)
def test_a_dvc_that_is_killed_loses_no_result(
    project: Path, environment: dict[str, str], undisturbed: dict[str, str], chance: random.Random, kills: int
) -> None:
    for number in range(kills):
        finished = begin_again(project) if done(project) == set(Project.load(project).stages) else done(project)
        moment = chance.uniform(0.5, 6)
        hit = kill_after(DVC, project, environment, moment)
        settle(project)
        mend(project)
        print(f"kill {number} after {moment:.2f} s: {hit}; finished {len(finished)} -> {len(done(project))}")
        assert finished <= done(project), "a finished stage is forgotten"
        assert not finished & set(ran(project)), "a finished stage ran again"
    dvc(project, environment, "repro")
    assert json.loads(dvc(project, environment, "status", "--json")) == {}
    assert versions(project) == undisturbed


@pytest.mark.parametrize("kills", KILLS)
def test_a_dagster_run_that_is_killed_loses_no_result(
    project: Path,
    project_root: Path,
    environment: dict[str, str],
    undisturbed: dict[str, str],
    chance: random.Random,
    kills: int,
) -> None:
    """DVC outlives it, and writes down what it has begun."""
    for number in range(kills):
        finished = begin_again(project) if done(project) == FIRST_STAGES else done(project)
        moment = chance.uniform(3, 12)
        hit = kill_after([*ALL, *FIRST], project_root, environment, moment)
        print(f"kill {number} after {moment:.2f} s: {hit}; finished {len(finished)} -> {len(done(project))}")
        assert not finished & set(ran(project)), "a finished stage ran again"
    shown = materialize(project_root, environment, *FIRST)
    assert shown.startswith("0\n"), shown[-3000:]
    assert not running(project)
    assert done(project) == FIRST_STAGES
    assert versions(project).items() <= undisturbed.items()
    assert json.loads(dvc(project, environment, "status", "--json", *sorted(FIRST_STAGES))) == {}


@pytest.mark.slow
def test_the_gpu_is_free_again_after_the_run_that_had_it_was_killed(
    project: Path, project_root: Path, environment: dict[str, str], instance: dg.DagsterInstance
) -> None:
    storage = instance.event_log_storage
    dvc(project, environment, "repro", "baselines")
    storage.set_concurrency_slots("gpu", 1)
    (project / "sleep-finetune").touch()
    command = [*ALL, "--select", "finetune"]
    with subprocess.Popen(command, cwd=project_root, env=environment, start_new_session=True, **QUIET) as run:
        while not (project / "sleeping").exists():
            assert run.poll() is None
            time.sleep(0.1)
        assert fail_dead_runs(instance) == [], "it is at work"
        os.killpg(run.pid, signal.SIGKILL)
    for process in processes(project):
        os.kill(process, signal.SIGKILL)
    settle(project)
    assert storage.get_concurrency_info("gpu").active_slot_count == 1
    (project / "sleep-finetune").unlink()
    assert len(fail_dead_runs(instance)) == 1
    assert storage.get_concurrency_info("gpu").active_slot_count == 0
    assert fail_dead_runs(instance) == []
    assert materialize(project_root, environment, "--select", "finetune").startswith("0\n")


@pytest.mark.slow
def test_two_materializations_and_a_repro_at_once_make_everything_once(
    project: Path, project_root: Path, environment: dict[str, str], instance: dg.DagsterInstance
) -> None:
    """Not as the very first of a DAGSTER_HOME: two processes that make its tables at once collide inside of Dagster."""
    assert instance.get_runs() == []
    assert materialize(project_root, environment, "--select", "base").startswith(("0\n", "1\n"))
    commands = [([*ALL, "--select", "*"], project_root)] * 2 + [(DVC, project)]
    started = [
        subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for command, folder in commands
    ]
    shown = [process.communicate(timeout=240)[0] for process in started]
    codes = [process.returncode for process in started]
    assert codes[:2] == [0, 0], "\n".join(text[-6000:] for text, code in zip(shown, codes, strict=True) if code)
    assert codes[2] == 0 or "is busy, it is being blocked by" in shown[2], shown[2][-3000:]
    assert sorted(ran(project)) == sorted(Project.load(project).stages)
    assert json.loads(dvc(project, environment, "status", "--json")) == {}


@pytest.mark.slow
def test_a_half_written_lock_is_mended_and_nothing_runs_again(
    project: Path, project_root: Path, environment: dict[str, str]
) -> None:
    """What a kill leaves that strikes while DVC writes its lock, which a random one hardly ever does."""
    dvc(project, environment, "repro", "ingest", "align")
    commit(project, environment)
    dvc(project, environment, "repro", "embed")
    whole = (project / "dvc.lock").read_bytes()
    ran(project)
    cut_off = (b"", whole[: len(whole) // 2].rstrip(), whole[:-40])
    for part in cut_off:
        (project / ".dvc/tmp/dvc.lock.whole").unlink(missing_ok=True)
        (project / "dvc.lock").write_bytes(part)
        (project / ".dvc/tmp/rwlock").write_text("")
        mended = mend(project)
        assert "as git has it" in mended[0]
        assert "rwlock" in mended[1]
        assert done(project) == {"ingest", "align"}
        dvc(project, environment, "repro", "embed")
        assert (project / "dvc.lock").read_bytes() == whole
    assert mend(project) == []
    for part in cut_off:
        (project / "dvc.lock").write_bytes(part)
        assert "last seen whole" in mend(project)[0]
        assert (project / "dvc.lock").read_bytes() == whole
    (project / ".dvc/tmp/dvc.lock.whole").unlink()
    (project / "dvc.lock").write_bytes(whole[: len(whole) // 2])
    assert materialize(project_root, environment, "--select", "ingest,align,embed").startswith("0\n")
    assert ran(project) == [], "the run-cache has what git does not know"
    assert mend(project) == []


def test_a_lock_that_dvc_is_writing_is_waited_for(project: Path, environment: dict[str, str]) -> None:
    """DVC holds its own lock while it writes; on a busy machine that may be seconds."""
    dvc(project, environment, "repro", "ingest", "align")
    lock = project / "dvc.lock"
    whole = lock.read_bytes()
    with Repo(str(project)) as repo, repo.lock, ThreadPoolExecutor() as pool:
        lock.write_bytes(whole[:100])
        seen = pool.submit(lambda: Project.load(project).last_runs())
        time.sleep(3 * SECONDS_BETWEEN_LOOKS)
        assert not seen.done()
        lock.write_bytes(whole)
    assert set(seen.result()) == {"ingest", "align"}
    assert lock.read_bytes() == whole
    assert not (project / "dvc.lock.broken").exists()


def test_a_merge_conflict_in_the_lock_is_left_to_its_user(project: Path, environment: dict[str, str]) -> None:
    dvc(project, environment, "repro", "ingest")
    lock = project / "dvc.lock"
    lock.write_text(f"<<<<<<< HEAD\n{lock.read_text()}=======\n>>>>>>> other\n")
    conflict = lock.read_bytes()
    with pytest.raises(DataError, match="found a merge's conflict; take one side"):
        mend(project)
    assert lock.read_bytes() == conflict


@pytest.mark.slow
def test_a_moved_checkout_is_still_up_to_date(
    made: Path, project_root: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    ran(made)
    told = [sys.executable, "-m", "rag_diffusion.orchestration.sync"]

    def sync(root: Path) -> str:
        return subprocess.run(
            [*told, str(root)], cwd=project_root, env=environment, capture_output=True, text=True
        ).stdout

    assert "score" in sync(made)
    moved = made.rename(tmp_path / "moved")
    environment["RAG_DIFFUSION_ROOT"] = str(moved)
    assert json.loads(dvc(moved, environment, "status", "--json")) == {}
    assert sync(moved) == "Dagster knows everything that lies here\n"
    shown = materialize(project_root, environment, "--select", "ingest,score,sweep/alternate-3")
    assert shown.startswith("0\n"), shown[-3000:]
    assert ran(moved) == []
    assert not made.exists()


@pytest.mark.slow
def test_three_first_stages_at_once_share_a_fresh_store_beside_an_old_one(
    tmp_path: Path, project_root: Path, environment: dict[str, str]
) -> None:
    """An old MLflow has left a store of files in mlruns/; three stages, that find no corpus, make the new one."""
    shutil.copy(project_root / "params.yaml", tmp_path)
    old = tmp_path / "mlruns" / "0"
    old.mkdir(parents=True)
    (old / "meta.yaml").write_text("artifact_location: mlruns/0\nexperiment_id: '0'\nname: Default\n")
    environment |= {"PYTHONPATH": str(project_root)}
    names = ("align", "embed", "index")
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "rag_diffusion", "run", name],
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for name in names
    ]  # fmt: skip
    shown = [process.communicate(timeout=200)[0] for process in started]
    assert all("error: " in text and "TRACKING FAILED" not in text for text in shown), "\n".join(shown)
    with sqlite3.connect(tmp_path / STORE) as store:
        runs = store.execute("SELECT name, status FROM runs ORDER BY name").fetchall()
    assert runs == [(name, "FAILED") for name in names]
    assert (old / "meta.yaml").is_file()
