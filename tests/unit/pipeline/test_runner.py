from __future__ import annotations

import json
import re
import shutil
import sqlite3
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest
from filelock import FileLock

from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.layout import SCRATCH
from rag_diffusion.pipeline import runner
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.pipeline.runner import run_stage, stages

RECORD = "data/runs/index.run.json"


@pytest.fixture
def root(tmp_path: Path, project_root: Path) -> Path:
    """A project with the default parameters and stages, and nothing else."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(project_root / name, tmp_path)
    return tmp_path


def install(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
    """Make a module stand where the runner imports the stage `index` from."""
    monkeypatch.setitem(sys.modules, "rag_diffusion.stages.index", module)


class Working(ModuleType):
    def run(self, context: StageContext) -> None:
        context.tracker.log_metrics({"recall": float(context.config.index.min_recall)})
        (context.root / "data" / "index").mkdir(parents=True)


class Failing(ModuleType):
    def run(self, context: StageContext) -> None:
        raise DataError("data/corpus: expected a corpus, found none")


@pytest.mark.slow
def test_a_stage_gets_its_context_and_leaves_a_note_of_its_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Working("index"))
    run_stage("index", root)

    record = json.loads((root / RECORD).read_text())
    assert record.keys() == {"run_id", "experiment", "stage"}
    assert (record["experiment"], record["stage"]) == ("rag-diffusion/knowledge_base", "index")
    assert len(record["run_id"]) == 32
    with sqlite3.connect(root / "mlruns" / "mlflow.db") as store:
        runs = store.execute("SELECT run_uuid, status FROM runs").fetchall()
    assert runs == [(record["run_id"], "FINISHED")]
    assert (root / "data" / "index").is_dir()


@pytest.mark.slow
def test_a_stage_that_fails_leaves_no_note_of_an_earlier_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Failing("index"))
    (root / RECORD).parent.mkdir(parents=True)
    (root / RECORD).write_text("{}")
    with pytest.raises(DataError, match="expected a corpus"):
        run_stage("index", root)

    assert not (root / RECORD).exists()


def test_a_sweep_over_a_users_own_corpus_is_skipped_without_a_run_and_told_once(
    root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "data/corpus").mkdir(parents=True)
    (root / "data/corpus/manifest.json").write_text(json.dumps({"kind": "folder", "hash": "f" * 64}))
    monkeypatch.setattr("rag_diffusion.pipeline.runner._module", lambda name: pytest.fail("nothing is to be loaded"))
    for item in ("sweep@text-1", "sweep@text-3", "sweep@alternate-1"):
        run_stage(item, root)
    first, *others = caplog.messages
    assert "knows the styles and entities of the default corpus, not those of a user's own" in first
    assert others == ["sweep@text-3: skipped", "sweep@alternate-1: skipped"]
    assert "the ruler" in json.loads((root / "reports/sweep/text-3.json").read_text())["reason"]
    record = json.loads((root / "data/runs/sweep@text-3.run.json").read_text())
    assert (record["run_id"], record["stage"]) == ("", "sweep@text-3")
    assert not (root / "mlruns").exists()

    (root / "data/corpus/manifest.json").write_text(json.dumps({"kind": "iconify", "hash": "f" * 64}))
    with pytest.raises(pytest.fail.Exception, match="nothing is to be loaded"):
        run_stage("sweep@text-1", root)


def test_an_unknown_stage_is_answered_with_the_known_ones(root: Path) -> None:
    with pytest.raises(ConfigError, match="indx: expected a stage, one of align, baselines"):
        run_stage("indx", root)


def test_wrong_parameters_stop_a_stage_before_anything_is_touched(root: Path) -> None:
    (root / "params.yaml").write_text("seed: zero\n")
    with pytest.raises(ConfigError, match="seed"):
        run_stage("index", root)

    assert {path.name for path in root.iterdir()} == {"params.yaml", "dvc.yaml"}


def test_the_pipeline_files_name_only_stages_that_the_runner_knows(project_root: Path) -> None:
    files = [project_root / "dvc.yaml", *(project_root / "pipelines").glob("*/dvc.yaml")]
    lines = [line for file in files for line in file.read_text().splitlines() if line.strip().startswith("cmd:")]
    called = {re.search(r"python -m rag_diffusion run (\w+)", line)[1] for line in lines}  # type: ignore[index]

    assert called == set(stages())


@pytest.mark.slow
@pytest.mark.parametrize(("orphaned", "made"), [(True, True), (True, False), (False, True)])
def test_what_waited_and_has_lost_its_starter_leaves_what_others_made_meanwhile(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, orphaned: bool, made: bool
) -> None:
    """It would take away the note that the `dvc repro` after it is about to hash."""
    install(monkeypatch, Working("index"))
    monkeypatch.setattr(runner, "_orphaned", lambda: orphaned)
    (root / SCRATCH).mkdir(parents=True)
    (root / RECORD).parent.mkdir(parents=True)
    (root / RECORD).write_text("of a run before")
    with ThreadPoolExecutor(1) as waiting:
        with FileLock(root / SCRATCH / "index.lock"):
            run = waiting.submit(run_stage, "index", root)
            give_up = time.monotonic() + 60
            while "waiting for its end" not in caplog.text and time.monotonic() < give_up:
                time.sleep(0.02)
            if made:
                (root / RECORD).write_text("of another process")
        run.result(timeout=120)
    left = orphaned and made
    assert ((root / RECORD).read_text() == "of another process") is left
    assert (root / "data/index").exists() is not left
    assert ("left so" in caplog.text) is left
