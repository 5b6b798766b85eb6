from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from pathlib import Path
from types import ModuleType

import pytest

from rag_diffusion.errors import ConfigError, DataError
from rag_diffusion.stages.context import StageContext
from rag_diffusion.stages.promote import promote_base, promote_ruler
from rag_diffusion.stages.runner import STAGES, run_stage

RECORD = "data/runs/index.run.json"


@pytest.fixture
def root(tmp_path: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the default parameters and nothing else."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(project_root / "params.yaml", tmp_path)
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
    assert (record["experiment"], record["stage"]) == ("rag-diffusion", "index")
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


def test_an_unknown_stage_is_answered_with_the_known_ones(root: Path) -> None:
    with pytest.raises(ConfigError, match="indx: expected a stage, one of ingest, align"):
        run_stage("indx", root)


def test_wrong_parameters_stop_a_stage_before_anything_is_touched(root: Path) -> None:
    (root / "params.yaml").write_text("seed: zero\n")
    with pytest.raises(ConfigError, match="seed"):
        run_stage("index", root)

    assert [path.name for path in root.iterdir()] == ["params.yaml"]


def test_the_pipeline_files_name_only_stages_that_the_runner_knows(project_root: Path) -> None:
    files = [project_root / "dvc.yaml", *(project_root / "pipelines").glob("*/dvc.yaml")]
    words = [line.split() for file in files for line in file.read_text().splitlines()]
    called = {line[-1] for line in words if line[:5] == ["cmd:", "python", "-m", "rag_diffusion", "run"]}

    assert called <= set(STAGES)
    assert "score" in called


@pytest.mark.parametrize(
    ("promote", "source", "target", "card"),
    [
        (promote_base, "data/pretrained", "data/base", "card.json"),
        (promote_ruler, "data/ruler_trained", "data/ruler", "ruler.json"),
    ],
)
def test_promotion_replaces_the_tracked_result_only_by_a_finished_one(
    tmp_path: Path, promote: object, source: str, target: str, card: str
) -> None:
    assert callable(promote)
    (tmp_path / target).mkdir(parents=True)
    (tmp_path / target / "old.safetensors").write_text("old")
    (tmp_path / source).mkdir(parents=True)
    (tmp_path / source / "new.safetensors").write_text("new")
    with pytest.raises(DataError, match=rf"{card}: expected a finished result with its card"):
        promote(tmp_path)
    assert (tmp_path / target / "old.safetensors").read_text() == "old"

    (tmp_path / source / card).write_text("{}")
    promote(tmp_path)

    assert sorted(p.name for p in (tmp_path / target).iterdir()) == sorted([card, "new.safetensors"])
