"""MLflow's model registry: a version for each promoted model, and `@champion` for the one that is served."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import requires
from pathlib import Path
from typing import Any

from rag_diffusion import layout
from rag_diffusion.config import Config
from rag_diffusion.errors import ModelError
from rag_diffusion.files import tree_hash
from rag_diffusion.serving import served
from rag_diffusion.serving.draw_request import TEXTS
from rag_diffusion.tracking import default_setup
from rag_diffusion.tracking.store import connect

CHAMPION = "champion"
_PARTS = (layout.MODEL, layout.CORPUS, layout.ENCODER, layout.VECTORS, layout.INDEX)
_CONTENT = "content"  # tag of a version: the hash of everything in it


@dataclass(frozen=True, kw_only=True)
class Version:
    """A registered model.

    Attributes:
        name: of the registered model.
        number: of the version.
        run_id: the MLflow run that it belongs to.
        new: whether it was registered just now.
    """

    name: str
    number: str
    run_id: str
    new: bool


def promote(root: Path, config: Config, run_id: str | None, tags: Mapping[str, str]) -> Version:
    """Register what lies in the project, unless it is registered already, and move `@champion` to it.

    The model is loaded from the registry and draws its example before the alias moves.

    Args:
        root: the project; its stages up to `finetune` have run.
        config: its parameters.
        run_id: the MLflow run of `finetune`; a new one is made where the store does not have it.
        tags: of the version.

    Raises:
        ModelError: the registered model does not draw.
    """
    import mlflow

    setup = default_setup(config, root, "finetune")
    client, experiment_id = connect(setup)
    mlflow.set_tracking_uri(setup.uri)
    mlflow.set_registry_uri(setup.uri)
    name = config.tracking.experiment
    content = tree_hashes(root)
    known = [version for version in _versions(client, name) if version.tags.get(_CONTENT) == content]
    with _nobodys_question():
        if known:
            version = Version(name=name, number=str(known[0].version), run_id=str(known[0].run_id), new=False)
        else:
            version = _register(client, experiment_id, name, root, _run(client, experiment_id, run_id))
        for key, value in {**tags, _CONTENT: content}.items():
            client.set_model_version_tag(name, version.number, key, value)
        _try(f"models:/{name}/{version.number}")
    client.set_registered_model_alias(name, CHAMPION, version.number)
    return version


def tree_hashes(root: Path) -> str:
    """Beginnings of the hashes of all that a version of the project at `root` holds."""
    return " ".join(tree_hash(root / part)[:16] for part in _PARTS)


@contextmanager
def _nobodys_question() -> Iterator[None]:
    """The example leaves no trace. MLflow's own switch, `tracing.disable`, would let `log_model` wait for itself."""
    before = os.environ.get(served.TRACED)
    os.environ[served.TRACED] = "false"
    try:
        yield
    finally:
        os.environ.pop(served.TRACED)
        if before is not None:
            os.environ[served.TRACED] = before


def _versions(client: Any, name: str) -> list[Any]:
    return list(client.search_model_versions(f"name = '{name}'"))


def _run(client: Any, experiment_id: str, run_id: str | None) -> str:
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_run(run_id).info.run_id) if run_id else _new_run(client, experiment_id)
    except MlflowException:  # restored from DVC's cache, made with another store
        return _new_run(client, experiment_id)


def _new_run(client: Any, experiment_id: str) -> str:
    run = client.create_run(experiment_id, run_name="promote", tags={"stage": "promote"})
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


def _register(client: Any, experiment_id: str, name: str, root: Path, run_id: str) -> Version:
    import mlflow
    import pandas as pd

    with tempfile.TemporaryDirectory(dir=root / "mlruns") as folder:
        project = Path(folder) / "project"
        for part in _PARTS:
            shutil.copytree(root / part, project / part)
        shutil.copy2(root / "params.yaml", project / "params.yaml")
        status = client.get_run(run_id).info.status
        with mlflow.start_run(run_id=run_id, log_system_metrics=False):
            info = mlflow.pyfunc.log_model(
                name="generator",
                python_model=served.__file__,
                artifacts={"project": str(project)},
                code_paths=[str(Path(layout.__file__).parent)],
                signature=_signature(),
                input_example=(pd.DataFrame({"prompt": ["a red apple"]}), dict(served.DEFAULTS)),
                pip_requirements=_requirements(),
                registered_model_name=name,
            )
        client.set_terminated(run_id, status)
    return Version(name=name, number=str(info.registered_model_version), run_id=run_id, new=True)


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    return ModelSignature(
        inputs=Schema([ColSpec("string", "prompt"), ColSpec("string", "neighbors", required=False)]),
        outputs=Schema([ColSpec("string", "image"), ColSpec("string", "provenance")]),
        params=ParamSchema(
            [ParamSpec(name, "long", value) for name, value in served.DEFAULTS.items()]
            + [ParamSpec(name, "string", value) for name, value in TEXTS.items()]
        ),
    )


def _requirements() -> list[str]:
    """What this library needs, without its extras."""
    return [line for line in requires("rag-diffusion") or [] if "extra ==" not in line]


def _try(uri: str) -> None:
    import mlflow
    import pandas as pd

    try:
        answer = mlflow.pyfunc.load_model(uri).predict(pd.DataFrame({"prompt": ["a red apple"]}))
    except Exception as error:
        raise ModelError(f"{uri}: expected the registered model to draw its example, got {error!r}") from error
    if list(answer) != ["image", "provenance"] or len(answer) != 1:
        raise ModelError(f"{uri}: expected an image and its provenance, got columns {list(answer)}")
