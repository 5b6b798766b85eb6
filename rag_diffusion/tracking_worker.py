"""The process that writes to MLflow; `tracking` starts it. The only module that imports mlflow."""

from __future__ import annotations

import getpass
import os
import queue
import shutil
import signal
import sys
import threading
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from rag_diffusion.origin import origin
from rag_diffusion.tracking import Reply, Setup

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from PIL.Image import Image

ENTITIES_PER_BATCH = 100
METRICS_PER_BATCH = 1000
DIGEST_LENGTH = 36  # MLflow's limit; the whole digest goes into a tag
SECONDS_FOR_LOCK = 120.0
WAITING = ("params", "tags", "dataset")  # what a stage says of itself before it has a result

Message = tuple[Any, ...]


class Writer:
    """Takes messages, in order, to one MLflow run; it begins with the first that is logged."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.run_id: str | None = None
        self.resumed_from: str | None = None
        self.client = _connect(setup)
        self.experiment_id = _experiment(self.client, setup)
        self._monitor: Any = None

    def begin(self) -> str:
        """The run's id; makes or continues the run."""
        if self.run_id is None:
            self.run_id = self._continued() or self._new()
            self._watch_system()
        return self.run_id

    def resume(self, run_id: str) -> None:
        """Continue this run instead of making one."""
        if self.run_id is not None:
            raise ValueError(f"run {run_id} cannot go on, as run {self.run_id} has begun")
        self.resumed_from = run_id

    def params(self, params: dict[str, str]) -> None:
        """Log parameters; one that a resumed run has with another value becomes a tag."""
        from mlflow.entities import Param

        run = self.client.get_run(self.begin())
        changed = {k: v for k, v in params.items() if run.data.params.get(k, v) != v}
        new = [Param(k, v) for k, v in params.items() if k not in run.data.params]
        for start in range(0, len(new), ENTITIES_PER_BATCH):
            self.client.log_batch(run.info.run_id, params=new[start : start + ENTITIES_PER_BATCH])
        if changed:
            self.tags({f"resumed_with.{key}": value for key, value in changed.items()})

    def metrics(self, values: list[tuple[str, float, int, int]]) -> None:
        """Log (key, value, milliseconds, step)."""
        from mlflow.entities import Metric

        run_id = self.begin()
        for start in range(0, len(values), METRICS_PER_BATCH):
            batch = [Metric(*value) for value in values[start : start + METRICS_PER_BATCH]]
            self.client.log_batch(run_id, metrics=batch)

    def image(self, image: Image, name: str, step: int | None) -> None:
        """Log a picture."""
        if step is None:
            self.client.log_image(self.begin(), image, artifact_file=f"images/{name}.png")
        else:
            self.client.log_image(self.begin(), image, key=name, step=step)

    def artifact(self, copy: str, folder: str | None) -> None:
        """Log a copied file or directory, then remove the copy."""
        try:
            if Path(copy).is_dir():
                self.client.log_artifacts(self.begin(), copy, "/".join(filter(None, [folder, Path(copy).name])))
            else:
                self.client.log_artifact(self.begin(), copy, folder)
        finally:
            shutil.rmtree(Path(copy).parent, ignore_errors=True)

    def table(self, columns: dict[str, list[Any]], name: str) -> None:
        """Log a table."""
        self.client.log_table(self.begin(), columns, f"{name}.json")

    def dataset(self, name: str, digest: str, source: str) -> None:
        """Log a dataset as an input of the run, and its whole digest as a tag."""
        from mlflow.entities import Dataset, DatasetInput

        known = Dataset(name=name, digest=digest[:DIGEST_LENGTH], source_type="local", source=source)
        self.client.log_inputs(self.begin(), datasets=[DatasetInput(known)])
        self.tags({f"dataset.{name}": digest})

    def tags(self, tags: dict[str, str]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag

        self.client.log_batch(self.begin(), tags=[RunTag(key, str(value)) for key, value in tags.items()])

    def close(self, status: str, error: str) -> None:
        """End the run."""
        run_id = self.begin()
        if self._monitor is not None:
            self._monitor.finish()
        if error:
            self.tags({"error": error})
        self.client.set_terminated(run_id, status)

    def _new(self) -> str:
        from mlflow.entities import Param

        tags = {"stage": self.setup.stage, "mlflow.user": _user(), "mlflow.source.type": "LOCAL"}
        tags["mlflow.source.name"] = f"python -m rag_diffusion run {self.setup.stage}"
        run = self.client.create_run(
            self.experiment_id,
            start_time=self.setup.started,
            run_name=self.setup.stage,
            tags=tags | _tags(self.setup.root),
        )
        params = [Param(key, value) for key, value in self.setup.params.items()]
        for start in range(0, len(params), ENTITIES_PER_BATCH):
            self.client.log_batch(run.info.run_id, params=params[start : start + ENTITIES_PER_BATCH])
        return str(run.info.run_id)

    def _continued(self) -> str | None:
        from mlflow.exceptions import MlflowException

        if self.resumed_from is None:
            return None
        try:
            self.client.update_run(self.resumed_from, status="RUNNING")
        except MlflowException as error:
            print(
                f"tracking: run {self.resumed_from} cannot go on ({error}); a new one begins",
                file=sys.stderr,
            )
            return None
        self.run_id = self.resumed_from
        self.params(self.setup.params)
        self.tags({"resumed": "true", **_tags(self.setup.root)})
        return self.resumed_from

    def _watch_system(self) -> None:
        """Log the machine's load too, where MLflow's own switch asks for it."""
        if os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "").lower() not in ("true", "1"):
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        resumed = self.resumed_from == self.run_id
        self._monitor = SystemMetricsMonitor(self.run_id, resume_logging=resumed, tracking_uri=self.setup.uri)
        self._monitor.start()


class Worker:
    """Reads messages until the pipe closes; keeps a list of those that could not be logged."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._writer: Writer | None = None
        self._errors: list[str] = []
        self._held: Message | None = None
        self._waiting: list[tuple[str, list[Any]]] = []
        self._begun = False
        threading.Thread(target=self._read, daemon=True).start()

    def run(self) -> None:
        """Handle every message; a pipe that ends without `close` is a stage that was killed."""
        while True:
            kind, *content = self._next()
            if kind == "begin":
                self._try("open the store", partial(self._open, content[0]))
            elif kind == "end":
                self._take("close", ["KILLED", "the stage's process ended without a word"])
                return
            else:
                self._take(kind, content)
            if kind in ("run_id", "close"):
                self._reply()
            if kind == "close":
                return

    def _take(self, kind: str, content: list[Any]) -> None:
        """Handle a message, or let it wait for one that begins a run: `resume` may still come."""
        if kind in WAITING and not self._begun:
            self._waiting.append((kind, content))
            return
        if kind != "resume":
            self._begun = True
            for earlier in self._waiting:
                self._handle(*earlier)
            self._waiting.clear()
        self._handle(kind, content)

    def _read(self) -> None:
        while True:
            try:
                self._inbox.put(self._pipe.recv())
            except (EOFError, OSError):
                self._inbox.put(("end",))
                return

    def _next(self) -> Message:
        """The next message; metrics that wait in a row are taken as one."""
        message, self._held = self._held or self._inbox.get(), None
        while message[0] == "metrics" and len(message[1]) < METRICS_PER_BATCH:
            try:
                following = self._inbox.get_nowait()
            except queue.Empty:
                break
            if following[0] != "metrics":
                self._held = following
                break
            message = ("metrics", message[1] + following[1])
        return message

    def _open(self, setup: Setup) -> None:
        self._writer = Writer(setup)

    def _handle(self, kind: str, content: list[Any]) -> None:
        writer = self._writer
        if writer is None:
            if kind not in ("run_id", "close"):
                self._errors.append(f"{kind}: there is no store to log to")
            return
        action = writer.begin if kind == "run_id" else getattr(writer, kind)
        self._try(kind, partial(action, *content))

    def _try(self, what: str, action: Any) -> None:
        try:
            action()
        except Exception as error:
            message = f"{what}: {type(error).__name__}: {error}"
            if not self._errors:
                print(f"\n*** TRACKING FAILED: {message}\n", file=sys.stderr, flush=True)
            self._errors.append(message)

    def _reply(self) -> None:
        run_id = self._writer.run_id if self._writer is not None else None
        with suppress(OSError):  # the stage may have been killed while it waited
            self._pipe.send(Reply(run_id=run_id, errors=self._errors))


def _connect(setup: Setup) -> MlflowClient:
    """Open the store. A new sqlite store is made under a lock: two at once break each other."""
    from mlflow import MlflowClient

    if not setup.uri.startswith("sqlite:"):
        return MlflowClient(setup.uri)
    with _lock(setup):
        client = MlflowClient(setup.uri)
        client.search_experiments(max_results=1)
        return client


def _experiment(client: MlflowClient, setup: Setup) -> str:
    with _lock(setup):
        found = client.get_experiment_by_name(setup.experiment)
        if found is not None:
            return str(found.experiment_id)
        return str(client.create_experiment(setup.experiment, artifact_location=setup.artifacts))


def _lock(setup: Setup) -> FileLock:
    folder = Path(setup.root) / "mlruns"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / ".lock", timeout=SECONDS_FOR_LOCK)


def _tags(root: str) -> dict[str, str]:
    """Where it comes from; the commit by the name that MLflow shows."""
    known = origin(root)
    commit = known.pop("git_commit", None)
    return known | ({"mlflow.source.git.commit": commit} if commit else {})


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


if __name__ == "__main__":
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, signal.SIG_IGN)
    Worker(Connection(int(sys.argv[1]))).run()
