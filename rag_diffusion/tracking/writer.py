"""What was sent, into one MLflow run."""

from __future__ import annotations

import getpass
import json
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_diffusion.origin import origin
from rag_diffusion.spans import Span
from rag_diffusion.tracking.store import connect, locked, run_named
from rag_diffusion.tracking.traces import write_traces
from rag_diffusion.tracking.tracker import Setup

if TYPE_CHECKING:
    from PIL.Image import Image

_LOG = logging.getLogger(__name__)

_ENTITIES_PER_BATCH = 100
METRICS_PER_BATCH = 1000
_DIGEST_LENGTH = 36  # MLflow's limit; the whole digest goes into a tag


class MlflowWriter:
    """Takes messages, in order, to one MLflow run; it begins with the first that is logged."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.run_id: str | None = None
        self.resumed_from: str | None = None
        self.client, self.experiment_id = connect(setup)
        self._monitor: Any = None

    def begin(self) -> str:
        """The run's id; makes or continues the run."""
        if self.run_id is None:
            self.run_id = self._continued() or self._new()
            self._watch_system()
        return self.run_id

    def resume(self, run_id: str) -> None:
        """Continue the run `run_id` instead of making one."""
        if self.run_id is not None:
            raise ValueError(f"run {run_id} cannot go on, as run {self.run_id} has begun")
        self.resumed_from = run_id

    def params(self, params: dict[str, str]) -> None:
        """Log parameters by dotted key, `params`; one that a resumed run has with another value becomes a tag."""
        from mlflow.entities import Param

        run = self.client.get_run(self.begin())
        changed = {k: v for k, v in params.items() if run.data.params.get(k, v) != v}
        new = [Param(k, v) for k, v in params.items() if k not in run.data.params]
        for start in range(0, len(new), _ENTITIES_PER_BATCH):
            self.client.log_batch(run.info.run_id, params=new[start : start + _ENTITIES_PER_BATCH])
        if changed:
            self.tags({f"resumed_with.{key}": value for key, value in changed.items()})

    def metrics(self, values: list[tuple[str, float, int, int]]) -> None:
        """Log `values`: (key, value, milliseconds since 1970, step) each."""
        from mlflow.entities import Metric

        run_id = self.begin()
        for start in range(0, len(values), METRICS_PER_BATCH):
            batch = [Metric(*value) for value in values[start : start + METRICS_PER_BATCH]]
            self.client.log_batch(run_id, metrics=batch)

    def image(self, image: Image, name: str, step: int | None) -> None:
        """Log a picture; see `Tracker.log_image`.

        Args:
            image: the picture.
            name: without a suffix.
            step: of the grid; None is an artifact of its own.
        """
        if step is None:
            self.client.log_image(self.begin(), image, artifact_file=f"images/{name}.png")
        else:
            self.client.log_image(self.begin(), image, key=name, step=step)

    def artifact(self, copy: str, folder: str | None) -> None:
        """Log a copied file or directory, `copy`, into a `folder` of the artifacts, then remove the copy."""
        try:
            if Path(copy).is_dir():
                self.client.log_artifacts(self.begin(), copy, "/".join(filter(None, [folder, Path(copy).name])))
            else:
                self.client.log_artifact(self.begin(), copy, folder)
        finally:
            shutil.rmtree(Path(copy).parent, ignore_errors=True)

    def table(self, columns: dict[str, list[Any]], name: str) -> None:
        """Log a table: `columns` by key, and its `name`."""
        self.client.log_table(self.begin(), columns, f"{name}.json")

    def traces(self, roots: list[Span]) -> None:
        """Log spans, each tree below one of `roots` as a trace of this run."""
        import mlflow

        mlflow.set_tracking_uri(self.setup.uri)  # the exporter of traces knows no client
        tags = {"stage": self.setup.stage}
        write_traces(self.client, self.experiment_id, roots, tags, self.begin())

    def dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Log a dataset as an input of the run, and its whole digest as a tag; see `Tracker.log_dataset`.

        Args:
            name: of the data set or model.
            digest: of its content, hex.
            source: where it lies, relative to the project.
            context: what for; empty says nothing.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

        dataset = Dataset(
            name=name,
            digest=digest[:_DIGEST_LENGTH],
            source_type="local",
            source=json.dumps({"uri": source}),
            profile=_profile(Path(self.setup.root) / source, digest),
        )
        tags = [InputTag(MLFLOW_DATASET_CONTEXT, context)] if context else []
        self.client.log_inputs(self.begin(), datasets=[DatasetInput(dataset, tags)])
        self.tags({f"dataset.{name}": digest})

    def tags(self, tags: dict[str, str]) -> None:
        """Set `tags` by name."""
        from mlflow.entities import RunTag

        self.client.log_batch(self.begin(), tags=[RunTag(key, str(value)) for key, value in tags.items()])

    def close(self, status: str, error: str) -> None:
        """End the run with a `status` of MLflow's; the `error` becomes a tag."""
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
        if self.setup.parent:
            with locked(self.setup):
                parent = run_named(self.client, self.experiment_id, self.setup.parent)
            tags["mlflow.parentRunId"] = parent
        run = self.client.create_run(
            self.experiment_id,
            start_time=self.setup.started,
            run_name=self.setup.stage,
            tags=tags | _tags(self.setup.root),
        )
        params = [Param(key, value) for key, value in self.setup.params.items()]
        for start in range(0, len(params), _ENTITIES_PER_BATCH):
            self.client.log_batch(run.info.run_id, params=params[start : start + _ENTITIES_PER_BATCH])
        return str(run.info.run_id)

    def _continued(self) -> str | None:
        from mlflow.exceptions import MlflowException

        if self.resumed_from is None:
            return None
        try:
            self.client.update_run(self.resumed_from, status="RUNNING")
        except MlflowException as error:
            _LOG.warning("tracking: run %s cannot go on (%s); a new one begins", self.resumed_from, error)
            return None
        self.run_id = self.resumed_from
        self.params(self.setup.params)
        self.tags({"resumed": "true", **_tags(self.setup.root)})
        return self.resumed_from

    def _watch_system(self) -> None:
        """Log the machine's load too; MLflow's own switch turns it off."""
        if os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true").lower() in ("false", "0"):
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        resumed = self.resumed_from == self.run_id
        self._monitor = SystemMetricsMonitor(self.run_id, resume_logging=resumed, tracking_uri=self.setup.uri)
        self._monitor.start()


def _profile(folder: Path, digest: str) -> str | None:
    """What the manifest of a data set counts, as JSON; None where there is none, or it is of other content."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if manifest["hash"] != digest:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    counts = {key: value for key, value in manifest.items() if key.startswith("num_") and isinstance(value, int)}
    licences = manifest.get("counts", {}).get("licence", {})
    return json.dumps({"num_rows": counts.pop("num_pairs", 0), **counts, "licences": licences})  # MLflow's own word


def _tags(root: str) -> dict[str, str]:
    """Where it comes from; the commit by the name that MLflow shows."""
    tags = origin(root)
    commit = tags.pop("git_commit", None)
    return tags | ({"mlflow.source.git.commit": commit} if commit else {})


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
