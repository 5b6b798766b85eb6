"""The tracker against a real MLflow store, in processes as a stage has them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rag_diffusion.config import Config, load_config
from rag_diffusion.spans import Span, recording, span
from rag_diffusion.tracking import SPOOL, STORE, NullTracker, Tracker, flatten, open_tracker
from tests.unit.tracking.stores import wait_for


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(Path(__file__).parents[3] / "params.yaml")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in git, with an uncommitted file; the first test that logs makes its store."""
    root = tmp_path_factory.mktemp("project")
    git(root, "init", "-q")
    git(
        root,
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@t",
        "commit",
        "-q",
        "--allow-empty",
        "-m",
        "a",
    )
    (root / "notes.txt").write_text("dirty")
    families = {"index": "knowledge_base", "finetune": "generator", "sample": "generator", "score": "evaluation"}
    stages = {name: {"meta": {"family": one}, "params": ["score", "sample", "finetune"]}
              for name, one in (families | {"sweep": "sweep"}).items()}  # fmt: skip
    (root / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    return root


def git(root: Path, *command: str) -> str:
    done = subprocess.run(["git", *command], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def client(root: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{root / STORE}")


def question() -> Span:
    """What was asked and found, in some milliseconds."""
    with recording("sample", prompt="a red apple") as root, span("retrieve", "RETRIEVER") as part:
        time.sleep(0.02)
        part.outputs = [{"page_content": "apple", "metadata": {"score": 1.0}}]
    root.outputs = {"pairs": 1}
    return root


def ended(root: Path, run_id: str, seconds: float = 60.0) -> Any:
    """The run, once it is no longer RUNNING."""
    give_up = time.monotonic() + seconds
    while (run := client(root).get_run(run_id)).info.status == "RUNNING":
        assert time.monotonic() < give_up, "the run was never ended"
        time.sleep(0.2)
    return run


@pytest.mark.slow
def test_everything_that_is_logged_is_in_the_store(root: Path, config: Config, tmp_path: Path) -> None:
    report = tmp_path / "report.txt"
    (root / "data" / "corpus").mkdir(parents=True)
    manifest = {"hash": "0123456789abcdef" * 4, "num_pairs": 30, "num_rejected": 2, "counts": {"licence": {"MIT": 30}}}
    (root / "data" / "corpus" / "manifest.json").write_text(json.dumps(manifest))
    report.write_text("as logged")
    with open_tracker(config, root, "score") as tracker:
        for step in range(1500):
            tracker.log_metrics({"loss": 1.0 / (step + 1)}, step)
        tracker.log_metrics({"kid": 0.25})
        tracker.log_image(Image.new("RGB", (8, 8), "red"), "sheet", step=5)
        tracker.log_image(Image.new("RGB", (8, 8), "red"), "last")
        tracker.log_artifact(report, "reports")
        report.write_text("changed later")
        tracker.log_table([{"prompt": "a red apple", "hits": 2}, {"prompt": "a moon", "hits": 0}], "rows")
        tracker.log_dataset("corpus", "0123456789abcdef" * 4, "data/corpus", "evaluation")
        tracker.log_dataset("model", "f" * 64, "data/model")
        tracker.set_tags({"variant": "retrieved"})
        tracker.log_traces([question()])

    assert tracker.errors == []
    assert tracker.run_id is not None
    store = client(root)
    run = store.get_run(tracker.run_id)
    family = store.get_experiment(run.info.experiment_id)
    assert "retrieved.joint" in json.loads(family.tags["mlflow.sharedViewState.columns"])["selectedColumns"][1]
    assert f"(#/experiments/{family.experiment_id}/runs?" in family.tags["mlflow.note.content"]
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "score"
    assert run.data.params["sample.text_guidance_scale"] == str(config.sample.text_guidance_scale)
    assert run.data.params["sample.variants"] == '["none", "random", "retrieved", "oracle"]'
    assert run.data.metrics["kid"] == 0.25
    curve = store.get_metric_history(tracker.run_id, "loss")
    assert sorted(point.step for point in curve) == list(range(1500))
    tags = run.data.tags
    assert tags["stage"] == "score"
    assert tags["variant"] == "retrieved"
    assert tags["mlflow.source.git.commit"] == git(root, "rev-parse", "HEAD")
    assert tags["git_dirty"] == "true"
    assert tags["dataset.corpus"] == "0123456789abcdef" * 4
    inputs = {entry.dataset.name: entry for entry in run.inputs.dataset_inputs}
    assert inputs.keys() == {"corpus", "model"}
    corpus = inputs["corpus"].dataset
    assert (corpus.digest, json.loads(corpus.source)) == (("0123456789abcdef" * 4)[:36], {"uri": "data/corpus"})
    assert json.loads(corpus.profile) == {"num_rows": 30, "num_rejected": 2, "licences": {"MIT": 30}}
    assert [(tag.key, tag.value) for tag in inputs["corpus"].tags] == [("mlflow.data.context", "evaluation")]
    assert (inputs["model"].dataset.profile, inputs["model"].tags) == (None, [])

    artifacts = root / "mlruns" / "artifacts" / tracker.run_id / "artifacts"
    assert (artifacts / "reports" / "report.txt").read_text() == "as logged"
    assert (artifacts / "images" / "last.png").is_file()
    assert len(list((artifacts / "images").glob("sheet+step+5+*.png"))) == 1
    assert "a red apple" in (artifacts / "rows.json").read_text()
    (trace,) = store.search_traces(locations=[run.info.experiment_id], run_id=tracker.run_id)
    asked, found = trace.data.spans
    assert (asked.name, asked.inputs, asked.outputs) == ("sample", {"prompt": "a red apple"}, {"pairs": 1})
    assert (found.name, found.span_type, found.parent_id) == ("retrieve", "RETRIEVER", asked.span_id)
    assert found.outputs == [{"page_content": "apple", "metadata": {"score": 1.0}}]
    assert 0.02 <= (found.end_time_ns - found.start_time_ns) / 1e9 < 1.0

    assert list((root / SPOOL).iterdir()) == [], "copies are removed once they are logged"


@pytest.mark.slow
def test_a_stage_that_fails_marks_its_run_failed_with_the_reason(root: Path, config: Config) -> None:
    with pytest.raises(ValueError, match="boom"), open_tracker(config, root, "sample") as tracker:
        raise ValueError("boom")

    assert tracker.run_id is not None
    run = client(root).get_run(tracker.run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["error"] == "ValueError: boom"


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_stage_that_is_killed_marks_its_run_killed_and_keeps_what_it_logged(
    root: Path, project_root: Path, stop: signal.Signals
) -> None:
    code = (
        "import sys, time\nfrom rag_diffusion.config import load_config\n"
        "from rag_diffusion.tracking import open_tracker\n"
        "with open_tracker(load_config(sys.argv[1]), sys.argv[2], 'finetune') as tracker:\n"
        "    tracker.log_metrics({'loss': 0.5}, 1)\n"
        "    print(tracker.run_id, flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(project_root / "params.yaml"), str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as stage:
        assert stage.stdout is not None
        run_id = stage.stdout.readline().strip()
        stage.send_signal(stop)

    run = ended(root, run_id)
    assert run.info.status == "KILLED"
    assert run.data.metrics == {"loss": 0.5}


@pytest.mark.slow
def test_a_resumed_training_goes_on_in_the_same_run(root: Path, config: Config) -> None:
    with pytest.raises(KeyboardInterrupt), open_tracker(config, root, "finetune") as first:
        first.log_metrics({"loss": 0.5}, 1)
        raise KeyboardInterrupt
    assert first.run_id is not None
    changed = config.model_copy(update={"finetune": config.finetune.model_copy(update={"max_minutes": 5.0})})
    with open_tracker(changed, root, "finetune") as second:
        second.log_dataset("corpus", "0" * 64, "data/corpus")
        second.set_tags({"scratch": "abc"})
        second.resume(first.run_id)
        second.log_metrics({"loss": 0.25}, 2)

    assert (second.run_id, second.errors) == (first.run_id, [])
    store = client(root)
    run = store.get_run(first.run_id)
    assert run.info.status == "FINISHED"
    assert [(m.step, m.value) for m in store.get_metric_history(first.run_id, "loss")] == [
        (1, 0.5),
        (2, 0.25),
    ]
    assert run.data.tags["scratch"] == "abc"
    assert run.data.params["finetune.max_minutes"] == "0.0"
    assert run.data.tags["resumed_with.finetune.max_minutes"] == "5.0"


@pytest.mark.slow
def test_resuming_a_run_that_this_store_does_not_have_begins_a_new_one(
    root: Path, config: Config, capfd: pytest.CaptureFixture[str]
) -> None:
    with open_tracker(config, root, "finetune") as tracker:
        tracker.resume("0" * 32)

    assert tracker.run_id not in (None, "0" * 32)
    assert "cannot go on" in capfd.readouterr().err


@pytest.mark.slow
def test_resuming_after_a_result_was_logged_is_told_loudly(
    root: Path, config: Config, capfd: pytest.CaptureFixture[str]
) -> None:
    with open_tracker(config, root, "finetune") as tracker:
        tracker.log_metrics({"loss": 1.0})
        tracker.resume("0" * 32)

    assert "cannot go on, as run" in capfd.readouterr().err


@pytest.mark.slow
def test_three_stages_at_once_can_make_the_store(tmp_path: Path, config: Config) -> None:
    with (
        open_tracker(config, tmp_path, "a") as one,
        open_tracker(config, tmp_path, "b") as two,
        open_tracker(config, tmp_path, "c") as three,
    ):
        trackers = [one, two, three]

    assert [tracker.errors for tracker in trackers] == [[], [], []]
    assert len({tracker.run_id for tracker in trackers} - {None}) == 3


@pytest.mark.slow
def test_each_family_of_stages_is_an_experiment_and_a_sweep_is_nested(root: Path, config: Config) -> None:
    runs = []
    for stage, parent in (("index", ""), ("sweep@joint-1", "guidance"), ("sweep@joint-3", "guidance")):
        with open_tracker(config, root, stage, parent=parent) as tracker:
            tracker.log_metrics({"joint": 0.5})
        runs.append(tracker.run_id)

    store = client(root)
    index, one, three = (store.get_run(run) for run in runs)
    assert store.get_experiment(index.info.experiment_id).name == "rag-diffusion/knowledge_base"
    assert store.get_experiment(one.info.experiment_id).name == "rag-diffusion/sweep"
    above = store.get_run(one.data.tags["mlflow.parentRunId"])
    assert above.info.run_name == "guidance"
    assert three.data.tags["mlflow.parentRunId"] == above.info.run_id
    assert "mlflow.parentRunId" not in index.data.tags


@pytest.mark.slow
def test_a_run_that_has_begun_is_seen_before_it_has_a_result(root: Path, config: Config) -> None:
    with open_tracker(config, root, "sample") as tracker:
        tracker.log_dataset("corpus", "0" * 64, "data/corpus")
        tracker.begin()
        store = client(root)
        wait_for(lambda: store.get_experiment_by_name("rag-diffusion/generator") is not None)
        family = store.get_experiment_by_name("rag-diffusion/generator").experiment_id
        wait_for(lambda: any(run.info.status == "RUNNING" for run in store.search_runs([family])))
    run = client(root).get_run(tracker.run_id)
    assert (run.info.status, run.data.tags["dataset.corpus"]) == ("FINISHED", "0" * 64)


@pytest.mark.slow
def test_the_load_of_the_machine_is_logged(root: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING", "1")
    with open_tracker(config, root, "score") as tracker:
        assert tracker.run_id is not None
        time.sleep(1.5)

    found = client(root).get_run(tracker.run_id).data.metrics
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= set(found)


@pytest.mark.slow
def test_a_store_that_was_moved_with_its_project_has_its_pictures_still(tmp_path: Path, config: Config) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    (before / "mlruns" / "0").mkdir(parents=True)  # what MLflow's old file store leaves
    (before / "mlruns" / "0" / "meta.yaml").write_text("artifact_location: mlflow-artifacts:/0\nname: Default\n")
    with open_tracker(config, before, "score") as tracker:
        tracker.log_image(Image.new("RGB", (8, 8), "red"), "last")
    assert tracker.errors == []
    before.rename(after)
    with open_tracker(config, after, "score") as later:
        later.log_image(Image.new("RGB", (8, 8), "red"), "last")

    store = client(after)
    for run in (tracker.run_id, later.run_id):
        assert [file.path for file in store.list_artifacts(run, "images")] == ["images/last.png"]
        assert store.get_run(run).info.artifact_uri.startswith(after.as_uri())
    assert not before.exists()


def test_parameters_are_flattened_to_dotted_keys_and_json() -> None:
    nested = {"a": {"b": [1, 2], "c": {"d": "text"}}, "e": None, "f": True, "g": 5e-05}

    assert flatten(nested) == {
        "a.b": "[1, 2]",
        "a.c.d": "text",
        "e": "null",
        "f": "true",
        "g": "5e-05",
    }


def test_the_null_tracker_takes_everything() -> None:
    tracker: Tracker = NullTracker()
    tracker.resume("0" * 32)
    tracker.log_metrics({"loss": 1.0}, 1)
    tracker.log_table([], "empty")

    assert tracker.run_id is None
