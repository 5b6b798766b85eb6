"""Run one stage by name: parameters, tracker, the stage, and a note which MLflow run it was."""

from __future__ import annotations

import importlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from rag_diffusion.config import load_config
from rag_diffusion.errors import ConfigError
from rag_diffusion.files import atomic_write, tree_hash
from rag_diffusion.layout import MODEL, RUNS, SCRATCH
from rag_diffusion.origin import origin
from rag_diffusion.stages.context import StageContext
from rag_diffusion.stages.skip import why_skipped, write_skip
from rag_diffusion.tracking import MlflowTracker, NullTracker, experiment_of, open_tracker

_LOG = logging.getLogger(__name__)

STAGES = (
    *("ingest", "align", "embed", "index", "neighbors", "baselines", "finetune", "sample", "score", "sweep"),
    *("pretrain", "score_base", "ruler", "evaluate"),  # in pipelines of their own
)
_IN_PARALLEL = ("pretrain", "finetune")
_OWN_PIPELINE = {
    "pretrain": "pipelines/pretrain",
    "score_base": "pipelines/pretrain",
    "ruler": "pipelines/ruler",
    "evaluate": "pipelines/evaluate",
}


def run_stage(name: str, root: Path | str = Path(), settings: Mapping[str, str] | None = None) -> None:
    """Run a stage of the pipeline in the project at `root`.

    Args:
        name: one of `STAGES`, or an item of one, as `sweep@joint-3`.
        root: the directory that holds params.yaml.
        settings: of params.yaml, in place of what stands there.

    Raises:
        ConfigError: there is no such stage, it cannot use several processes, or params.yaml is wrong.
        RagDiffusionError: whatever the stage objects to.
    """
    base, _, item = name.partition("@")
    if base not in STAGES:
        raise ConfigError(f"{name}: expected a stage, one of {', '.join(STAGES)}")
    root = Path(root).resolve()
    config = load_config(root / "params.yaml", settings)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and name not in _IN_PARALLEL:
        raise ConfigError(f"{name}: expected one process, got several; only {' and '.join(_IN_PARALLEL)} can use them")
    if os.environ.get("RANK", "0") != "0":  # the first process tracks and writes the note
        _load(base)(StageContext(config=config, root=root, tracker=NullTracker(), item=item))
        return
    record = root / _OWN_PIPELINE.get(base, RUNS) / f"{name}.run.json"
    with _alone(name, root):
        record.unlink(missing_ok=True)
        reason = why_skipped(base, root)
        if reason:
            write_skip(base, item, root, reason)
            content = {"run_id": "", "experiment": experiment_of(config, name), "stage": name, "skipped": reason}
            atomic_write(record, json.dumps(content, indent=2) + "\n")
            return
        with open_tracker(config, root, name, _parent(base, item, root), also=settings or ()) as tracker:
            stage = _load(base)
            stage(StageContext(config=config, root=root, tracker=tracker, item=item))
        atomic_write(record, json.dumps(_record(name, experiment_of(config, name), tracker, root), indent=2) + "\n")


def _parent(stage: str, item: str, root: Path) -> str:
    """The run that an item is nested in: one for each stage and model."""
    if not item:
        return ""
    return f"{stage} of model {tree_hash(root / MODEL)[:8]}" if (root / MODEL).is_dir() else stage


@contextmanager
def _alone(name: str, root: Path) -> Iterator[None]:
    """Wait while another process runs this stage here: a stage outlives a `dvc repro` that is killed with -9."""
    path = root / SCRATCH / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        other = path.read_text(encoding="utf-8").strip() or "unknown"
        _LOG.warning(
            f"{name}: expected to be the only process of this stage here, but process {other} is at work on it, "
            "perhaps left over from a run that was killed; waiting for its end"
        )
        lock.acquire()
    try:
        path.write_text(f"{os.getpid()}\n", encoding="utf-8")
        yield
    finally:
        lock.release()


def _load(name: str) -> Callable[[StageContext], None]:
    """The stage's function; its module is imported only now, as it may need torch."""
    run: Callable[[StageContext], None] = importlib.import_module(f"rag_diffusion.stages.{name}").run
    return run


def _record(stage: str, experiment: str, tracker: MlflowTracker, root: Path) -> dict[str, object]:
    record: dict[str, object] = {"run_id": tracker.run_id, "experiment": experiment, "stage": stage}
    return record | origin(root) | ({"tracking_error": tracker.errors[0]} if tracker.errors else {})
