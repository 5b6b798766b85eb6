"""What a stage logs, and the way it takes to MLflow.

MLflow is slow to import and to open its store (2 to 20 s), so a second process does it (`worker`). The stage writes
messages to a pipe and goes on; `open_tracker` waits at its end until all are in the store. The second process sees the
pipe close when the stage is killed, and marks the run KILLED. A store that does not answer gets everything later. A
failure of tracking never ends a stage, but is printed at once and again at the end.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import TYPE_CHECKING

from rag_diffusion.config import Config
from rag_diffusion.declared import declared, own_params
from rag_diffusion.spans import Span

if TYPE_CHECKING:
    from PIL.Image import Image

_LOG = logging.getLogger(__name__)

STORE = "mlruns/mlflow.db"
ARTIFACTS = "mlruns/artifacts"
SPOOL = "mlruns/.spool"
_SECONDS_TO_FLUSH = 300.0
_SECONDS_TO_END = 10.0


class Tracker:
    """Where a stage's parameters, metrics and pictures go; by itself, nowhere."""

    @property
    def run_id(self) -> str | None:
        """Id of the run, None where there is none."""
        return None

    def resume(self, run_id: str) -> None:
        """Go on with the earlier run `run_id`; parameters, tags and datasets alone may come before."""

    def begin(self) -> None:
        """Begin the run now: it is seen at once, with the machine's load. Else it begins with the first result."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers by name, the `metrics`; at a `step` where they form a curve."""

    def log_image(self, image: Image, name: str, step: int | None = None) -> None:
        """Log a picture.

        Args:
            image: the picture.
            name: without a suffix, e.g. `sheets/retrieved`.
            step: with one it joins the picture grid of `name`.
        """

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Log a file or a directory, `path`, as it is now; into a `folder` of the run's artifacts.

        Raises:
            FileNotFoundError: there is none.
        """

    def log_table(self, rows: Sequence[Mapping[str, object]], name: str) -> None:
        """Log `rows` with the same keys as the JSON table `NAME.json`, where `name` is NAME."""

    def log_traces(self, roots: Sequence[Span]) -> None:
        """Log recorded spans; each tree, of which `roots` are the first spans, becomes a trace of the run."""

    def log_dataset(self, name: str, digest: str, source: str, context: str = "") -> None:
        """Log which data a run read; it is an input of the run, with the counts that a manifest there tells.

        Args:
            name: of the data set or model.
            digest: hash of its content, hex.
            source: where it lies, relative to the project.
            context: what for, e.g. `training`; empty says nothing.
        """

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set `tags` of the run, by name."""


class NullTracker(Tracker):
    """A tracker that does nothing."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What the second process needs to know to begin a run.

    Attributes:
        artifacts: where a new experiment keeps its files; None leaves it to the store.
        started: milliseconds since 1970.
        parent: name of the run that this one is nested in, made where there is none; empty: none.
    """

    uri: str
    artifacts: str | None
    experiment: str
    stage: str
    root: str
    params: dict[str, str]
    started: int
    parent: str = ""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the second process answers: the run, what could not be logged, and whether the store is still to answer."""

    run_id: str | None
    errors: list[str] = field(default_factory=list)
    late: bool = False


class MlflowTracker(Tracker):
    """Sends what is logged to the process that writes it to MLflow. Made by `open_tracker`."""

    def __init__(self, setup: Setup) -> None:
        self.errors: list[str] = []
        self._setup = setup
        self._run_id: str | None = None
        self._spool = Path(setup.root) / SPOOL
        self._lock = threading.Lock()
        self._pipe, child = Pipe()
        self._process = _start_worker(child)
        child.close()
        self._send("begin", setup)

    @property
    def run_id(self) -> str | None:
        """Id of the MLflow run; waits until the store has answered, None if it cannot."""
        if self._run_id is None and not self.errors:
            self._ask("run_id")
        return self._run_id

    def resume(self, run_id: str) -> None:
        self._send("resume", run_id)

    def begin(self) -> None:
        self._send("metrics", [])  # a result, with nothing in it yet

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        now = int(time.time() * 1000)
        self._send("metrics", [(key, float(value), now, step or 0) for key, value in metrics.items()])

    def log_image(self, image: Image, name: str, step: int | None = None) -> None:
        self._send("image", image.convert("RGB"), name, step)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        path = Path(path)  # copied now, so the stage may move or change it
        if not path.exists():
            raise FileNotFoundError(f"{path}: expected a file or directory to log, found none")
        try:
            self._spool.mkdir(parents=True, exist_ok=True)
            copy = Path(tempfile.mkdtemp(dir=self._spool)) / path.name
            shutil.copytree(path, copy) if path.is_dir() else shutil.copy2(path, copy)
        except OSError as error:
            self._lost(f"{path} could not be copied for the tracker: {error}")
            return
        self._send("artifact", str(copy), folder)

    def log_table(self, rows: Sequence[Mapping[str, object]], name: str) -> None:
        self._send("table", {key: [row[key] for row in rows] for key in (rows[0] if rows else {})}, name)

    def log_traces(self, roots: Sequence[Span]) -> None:
        self._send("traces", list(roots))

    def log_dataset(self, name: str, digest: str, source: str, context: str = "") -> None:
        self._send("dataset", name, digest, source, context)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._send("tags", dict(tags))

    def close(self, error: BaseException | None = None) -> None:
        """Write everything out, then mark the run FINISHED, or by the `error` FAILED or (interrupted) KILLED."""
        status = "FINISHED"
        if error is not None:
            status = "FAILED" if isinstance(error, Exception) else "KILLED"
        self._ask("close", status, f"{type(error).__name__}: {error}" if error else "")
        self._pipe.close()
        with suppress(subprocess.TimeoutExpired):  # it goes on alone and ends with its last message
            self._process.wait(_SECONDS_TO_END)
        if self.errors:
            _LOG.error(
                f"*** TRACKING FAILED: {len(self.errors)} message(s) of stage {self._setup.stage} did not reach "
                f"{self._setup.uri}; the first: {self.errors[0]}"
            )

    def _send(self, kind: str, *content: object) -> bool:
        try:
            with self._lock:
                self._pipe.send((kind, *content))
        except OSError:
            self._lost(f"the tracking process ended early (exit code {self._process.poll()})")
            return False
        return True

    def _ask(self, kind: str, *content: object) -> None:
        if not self._send(kind, *content):
            return
        if not self._pipe.poll(_SECONDS_TO_FLUSH):
            self._lost(f"no answer within {_SECONDS_TO_FLUSH:.0f} s; it goes on in the background")
            return
        try:
            reply = self._pipe.recv()
        except (EOFError, OSError):
            self._lost(f"the tracking process ended early (exit code {self._process.wait()})")
            return
        self._run_id = reply.run_id
        self.errors.extend(reply.errors)
        if reply.late and kind == "close":
            self._lost("the store does not answer; the tracking process goes on without the stage")

    def _lost(self, message: str) -> None:
        if not self.errors:
            _LOG.error("*** TRACKING FAILED: %s", message)
        self.errors.append(message)


@contextmanager
def open_tracker(
    config: Config, root: Path | str, stage: str, parent: str = "", also: Collection[str] = ()
) -> Iterator[MlflowTracker]:
    """Begin an MLflow run for a stage; at the end wait until it is written.

    Args:
        config: its `tracking` section says where to; what the stage reads of it is logged as parameters.
        root: the project's root; the default store is `<root>/mlruns/mlflow.db`.
        stage: name of the run and of its `stage` tag; its family is the experiment, see `experiment_of`.
        parent: name of the run that it is nested in; empty: none.
        also: keys of parameters that were set for this run alone, which are logged too.

    Yields:
        The tracker. An exception in the body marks the run FAILED and goes on.
    """
    tracker = MlflowTracker(default_setup(config, root, stage, parent, also))
    try:
        yield tracker
    except BaseException as error:
        tracker.close(error)
        raise
    tracker.close()


def default_setup(config: Config, root: Path | str, stage: str, parent: str = "", also: Collection[str] = ()) -> Setup:
    """The setup of the store that params.yaml or MLFLOW_TRACKING_URI names, else of the project's own.

    Args:
        config: as for `open_tracker`.
        root: as for `open_tracker`.
        stage: as for `open_tracker`.
        parent: as for `open_tracker`.
        also: as for `open_tracker`.
    """
    root = Path(root).resolve()
    uri = config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    return Setup(
        uri=uri or f"sqlite:///{root / STORE}",
        artifacts=None if uri else (root / ARTIFACTS).as_uri(),
        experiment=experiment_of(config, root, stage),
        stage=stage,
        root=str(root),
        params=own_params(root, stage, flatten(config.model_dump()), also),
        started=int(time.time() * 1000),
        parent=parent,
    )


def experiment_of(config: Config, root: Path, stage: str) -> str:
    """Name of the experiment of a stage: one for each family of stages, so that its runs can be compared.

    Args:
        config: its `tracking.experiment` begins the name.
        root: the project, whose dvc.yaml names the families.
        stage: as it is there.
    """
    return f"{config.tracking.experiment}/{declared(root, stage).family}"


def flatten(params: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Nested `params` as dotted keys, after a `prefix`, and text: `{"a": {"b": [1]}}` becomes `{"a.b": "[1]"}`."""
    flat: dict[str, str] = {}
    for key, value in params.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value, default=str)
    return flat


def _start_worker(child: Connection) -> subprocess.Popen[bytes]:
    """Start the second process in a session of its own, so that it outlives the stage."""
    environment = {
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the worker tries again by itself
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        **os.environ,
    }
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "GIT_PYTHON_REFRESH": "quiet"}
    return subprocess.Popen(
        [sys.executable, "-m", "rag_diffusion.tracking.worker", str(child.fileno())],
        pass_fds=[child.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        env=environment,
    )
