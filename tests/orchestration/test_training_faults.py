"""The real fine-tuning under `dvc repro`, killed at random moments, and on a disk that is full."""

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
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rag_diffusion import layout
from rag_diffusion.config import load_config
from rag_diffusion.files import file_hash
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.stages import finetune
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.tracking import STORE, NullTracker
from tests.orchestration.projects import KILLS, dvc
from tests.orchestration.trained import EVERY, STEPS, make_training_project

SECONDS_OF_A_RUN = 14.0
WEIGHTS = f"{layout.MODEL}/unet/diffusion_pytorch_model.safetensors"
STAGE = "rag_diffusion run finetune"


@pytest.fixture
def training(
    tmp_path: Path,
    project_root: Path,
    tiny_corpus: Corpus,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The project of `trained`, of which every process computes on one thread and imports this checkout."""
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(project_root)}
    return make_training_project(tmp_path / "project", project_root, tiny_corpus, environment)


@pytest.mark.parametrize("kills", KILLS)
def test_a_training_that_is_killed_ends_as_if_nothing_had_happened(
    training: Path, environment: dict[str, str], tmp_path: Path, kills: int
) -> None:
    """Killed is the training, or DVC alone, which the training outlives: the next run must not train beside it."""
    undisturbed = weights_of(training, tmp_path / "undisturbed")
    chance = random.Random(seed := int(os.environ.get("FAULT_SEED", random.randrange(10**6))))
    print(f"FAULT_SEED={seed}")
    reached = 0
    for _ in range(kills):
        victim, moment = chance.choice([STAGE, "dvc repro"]), chance.uniform(0, SECONDS_OF_A_RUN)
        killed = start_and_kill(training, environment, victim, moment)
        step = checkpoint_of(training)
        print(f"{victim} killed {moment:.1f} s after the stage began: {killed}; checkpoint of step {step}")
        assert step >= reached, "a checkpoint is lost"
        reached = step

    dvc(training, environment, "repro")
    assert json.loads(dvc(training, environment, "status", "--json")) == {}
    assert file_hash(training / WEIGHTS) == undisturbed
    assert not list((training / layout.SCRATCH).glob(".*")), "half-written checkpoints are cleared away"
    record = json.loads((training / layout.RUNS / "finetune.run.json").read_text())
    with sqlite3.connect(training / STORE) as store:
        assert store.execute("SELECT status FROM runs WHERE run_uuid = ?", [record["run_id"]]).fetchall() == [
            ("FINISHED",)
        ]
        steps = store.execute(
            "SELECT DISTINCT step FROM metrics WHERE run_uuid = ? AND key = 'loss'", [record["run_id"]]
        )
        assert (STEPS // 10 * 10,) in steps.fetchall()


@pytest.fixture
def small_scratch(training: Path) -> Iterator[Path]:
    """Checkpoints on a disk with room for one of them and half of the next."""
    folder = training / layout.SCRATCH
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system that is full needs the right to mount one")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_stops_a_training_that_goes_on_when_there_is_room(
    training: Path, small_scratch: Path, environment: dict[str, str]
) -> None:
    command = [sys.executable, "-m", "rag_diffusion", "run", "finetune"]
    full = subprocess.run(command, cwd=training, env=environment, capture_output=True, text=True, check=False)
    assert full.returncode == 1
    assert "expected room to write, but the disk is full" in full.stderr
    assert "free some space and run the stage again" in full.stderr
    assert "Traceback" not in full.stderr
    assert checkpoint_of(training) == EVERY
    assert not list(small_scratch.glob(".*.tmp"))

    subprocess.run(["mount", "-o", "remount,size=200m", str(small_scratch)], check=True)
    done = subprocess.run(command, cwd=training, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"resuming at step {EVERY} of {STEPS}" in done.stderr


def weights_of(project: Path, copy: Path) -> str:
    """Hash of what the training makes in a copy of the project where nothing disturbs it."""
    shutil.copytree(project, copy)
    context = StageContext(config=load_config(copy / "params.yaml"), root=copy, tracker=NullTracker())
    finetune.run(context)
    return file_hash(copy / WEIGHTS)


def start_and_kill(project: Path, environment: dict[str, str], victim: str, moment: float) -> bool:
    """Run `dvc repro` and kill one of its processes some seconds after the stage began; whether there was one."""
    command = [sys.executable, "-m", "dvc", "repro"]
    with subprocess.Popen(
        command,
        cwd=project,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        while process.poll() is None and not working(project, STAGE):
            time.sleep(0.05)
        give_up = time.monotonic() + moment
        while process.poll() is None and time.monotonic() < give_up:
            time.sleep(0.02)
        found = working(project, victim)
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        if not found:
            process.kill()
    return bool(found)


def working(project: Path, words: str) -> list[int]:
    """Processes in the project's folder whose command line has these words."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline", "cwd"])
        if process.info["cwd"] == str(project) and words in " ".join(process.info["cmdline"] or ())
    ]


def checkpoint_of(project: Path) -> int:
    """The step of the checkpoint that the next run finds; 0 where there is none."""
    (meta,) = list((project / layout.SCRATCH).glob("*finetune-*/meta.json")) or [None]
    return 0 if meta is None else int(json.loads(meta.read_text())["step"])
