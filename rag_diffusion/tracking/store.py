"""The MLflow store of a project: opened, moved along with its project, and never made by two at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from rag_diffusion.tracking import views
from rag_diffusion.tracking.tracker import ARTIFACTS, STORE, Setup

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SECONDS_FOR_LOCK = 120.0
KIND, NOTE = "mlflow.experimentKind", "mlflow.note.content"  # tags that MLflow's pages read
_SEE = (
    "Each run is one run of a stage: `rag-diffusion lineage RUN_ID` says which corpus, model, parameters and commit it "
    "comes from, `dvc metrics show` has the same numbers, and `make ui` opens Dagster beside this page."
)
_NOTES = {
    "knowledge_base": f"Corpus, encoder, index and neighbors. Recall and latency are metrics. {_SEE}",
    "generator": f"Trainings and drawings: loss and neighbor gain by step, pictures by step, traces of samples. {_SEE}",
    "evaluation": f"Accuracies and distances of every variant, the column that counts is `retrieved.joint`. {_SEE}",
    "sweep": f"Validation prompts by guidance and number of neighbors, nested in one run for each model. {_SEE}",
    "": _SEE,
}
_UNREACHABLE = ("TEMPORARILY_UNAVAILABLE", "RESOURCE_EXHAUSTED")
_LOCATIONS = {  # columns that hold where an artifact is
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
    "trace_tags": ("value",),
}


def connect(setup: Setup) -> tuple[MlflowClient, str]:
    """A client of the store that `setup` names, and the id of its experiment, made where there is none.

    A new sqlite store is made under a lock: two at once break each other.
    """
    from mlflow import MlflowClient

    with locked(setup):
        if setup.artifacts is not None:
            follow(Path(setup.root))
        client = MlflowClient(setup.uri)
        experiment = client.get_experiment_by_name(setup.experiment)
        if experiment is None:
            experiment_id, tags = str(client.create_experiment(setup.experiment, setup.artifacts)), {}
        else:
            experiment_id, tags = str(experiment.experiment_id), experiment.tags
        for key, value in _tags(setup.experiment, experiment_id).items():
            if key not in tags:  # else made by an earlier version, or by hand
                client.set_experiment_tag(experiment_id, key, value)
        return client, experiment_id


def _tags(experiment: str, experiment_id: str) -> dict[str, str]:
    """What MLflow's pages need to know: that these are runs of a model, not of an agent, and what they are about."""
    family = experiment.rpartition("/")[2]
    tags = {KIND: "custom_model_development", NOTE: _NOTES.get(family, _NOTES[""])}
    if family in views.COLUMNS:
        link = f"[Runs with what counts](#/experiments/{experiment_id}/runs?{views.KEY})"
        tags |= {views.TAG: views.view(family), NOTE: f"{link}. {tags[NOTE]}"}
    return tags


def run_named(client: MlflowClient, experiment_id: str, name: str) -> str:
    """Id of the run that others are nested in, made where there is none; call it under `locked`.

    Args:
        client: of the store.
        experiment_id: where it is.
        name: of the run.
    """
    condition = f"tags.parent_of = '{name}'"
    runs = client.search_runs([experiment_id], condition, max_results=1, order_by=["attributes.start_time DESC"])
    if runs:
        return str(runs[0].info.run_id)
    run = client.create_run(experiment_id, run_name=name, tags={"parent_of": name})
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


@contextmanager
def locked(setup: Setup) -> Iterator[None]:
    """Alone with the store of `setup`, among all processes of this project."""
    folder = Path(setup.root) / "mlruns"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock", timeout=_SECONDS_FOR_LOCK):
        yield


def follow(root: Path) -> None:
    """Let a store that was moved with its project find its artifacts again: MLflow keeps absolute places.

    Args:
        root: where the project is now.
    """
    store, here = root / STORE, (root / ARTIFACTS).as_uri()
    if not store.is_file():
        return
    with closing(sqlite3.connect(store, timeout=_SECONDS_FOR_LOCK)) as database, database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "experiments" not in tables:
            return
        query = "SELECT DISTINCT artifact_location FROM experiments WHERE artifact_location LIKE ?"
        for (old,) in database.execute(query, (f"file:%/{ARTIFACTS}",)).fetchall():
            if old != here:
                _move(database, tables, old, here)


def _move(database: sqlite3.Connection, tables: set[str], old: str, here: str) -> None:
    for table in tables & set(_LOCATIONS):
        columns = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
        for column in columns & set(_LOCATIONS[table]):
            change = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR {column} LIKE ?"  # noqa: S608
            database.execute(change, (here, len(old) + 1, old, f"{old}/%"))


def unreachable(error: BaseException) -> bool:
    """Whether the store may answer later what failed by `error`: no connection, busy, or its server is in trouble."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import ConnectionError as NoConnection
    from requests.exceptions import RetryError, Timeout

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, NoConnection | RetryError | Timeout):
            return True
        if isinstance(cause, MlflowException) and cause.error_code in _UNREACHABLE:
            return True
        cause = cause.__cause__ or cause.__context__
    return False
