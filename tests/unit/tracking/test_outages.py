"""The tracker where the store is slow, dead or never was."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from PIL import Image

from rag_diffusion.config import Config, load_config
from rag_diffusion.tracking import Tracker, open_tracker
from tests.unit.tracking.stores import at, mlflow_client, serve, wait_for


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(Path(__file__).parents[3] / "params.yaml")


@pytest.mark.slow
def test_a_store_that_never_answers_is_told_loudly_and_does_not_stop_the_stage(
    tmp_path: Path,
    config: Config,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAG_DIFFUSION_TRACKING_PATIENCE", "1")
    with open_tracker(at(config, "http://127.0.0.1:9"), tmp_path, "score") as tracker:
        tracker.log_metrics({"loss": 1.0})

    assert tracker.run_id is None
    assert "*** TRACKING FAILED: the store does not answer (open the store" in capfd.readouterr().err
    assert "2 message(s) of stage score did not reach http://127.0.0.1:9" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("back", ["while the stage runs", "after its end"])
def test_what_is_logged_while_the_server_is_dead_reaches_the_store(
    tmp_path: Path, config: Config, capfd: pytest.CaptureFixture[str], back: str
) -> None:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    server = serve(tmp_path, port)
    with open_tracker(at(config, uri), tmp_path, "finetune") as tracker:
        tracker.log_metrics({"loss": 1.0}, 0)
        assert tracker.run_id is not None
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        for step in range(1, 51):
            tracker.log_metrics({"loss": 1.0 / (step + 1)}, step)
        tracker.log_image(Image.new("RGB", (8, 8), "red"), "last")
        if back == "while the stage runs":
            time.sleep(5)
            server = serve(tmp_path, port)
    if back == "after its end":
        assert "goes on without the stage" in tracker.errors[0]
        server = serve(tmp_path, port)

    assert "the store does not answer" in capfd.readouterr().err
    try:
        store = mlflow_client(uri)
        wait_for(lambda: store.get_run(tracker.run_id).info.status == "FINISHED")
        steps = [point.step for point in store.get_metric_history(tracker.run_id, "loss")]
        assert sorted(steps) == list(range(51))
        assert [file.path for file in store.list_artifacts(tracker.run_id)] == ["images"]
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_a_tracking_process_that_dies_is_told_loudly_and_does_not_stop_the_stage(
    tmp_path: Path, config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    with open_tracker(config, tmp_path, "score") as tracker:
        tracker._process.kill()
        tracker._process.wait()
        tracker.log_metrics({"loss": 1.0})

    assert tracker.run_id is None
    assert "*** TRACKING FAILED: the tracking process ended early" in caplog.text


@pytest.fixture
def idle_tracker(tmp_path: Path, config: Config) -> Iterator[Tracker]:
    """A tracker whose process is stopped, as slow as can be, and killed in the end."""
    with suppress(KeyboardInterrupt), open_tracker(config, tmp_path, "score") as tracker:
        os.kill(tracker._process.pid, signal.SIGSTOP)
        yield tracker
        tracker._process.kill()


def test_logging_does_not_wait_for_a_slow_store(idle_tracker: Tracker) -> None:
    start = time.monotonic()
    for step in range(100):
        idle_tracker.log_metrics({"loss": 1.0}, step)

    assert time.monotonic() - start < 1.0


def test_logging_a_path_that_is_not_there_is_an_error_of_the_stage(idle_tracker: Tracker, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a file or directory to log, found none"):
        idle_tracker.log_artifact(tmp_path / "missing.json")
