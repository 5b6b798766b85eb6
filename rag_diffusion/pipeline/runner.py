"""Run one stage by name: parameters, tracker, the stage, and a note which MLflow run it was."""

from __future__ import annotations

import importlib
import json
import logging
import os
import pkgutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rag_diffusion.config import load_config
from rag_diffusion.declared import declared
from rag_diffusion.errors import ConfigError
from rag_diffusion.files import atomic_write, tree_hash
from rag_diffusion.layout import MODEL, SCRATCH
from rag_diffusion.origin import origin
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.pipeline.skip import why_skipped, write_skip
from rag_diffusion.tracking import NullTracker, experiment_of, open_tracker

_LOG = logging.getLogger(__name__)
_STARTED_BY = os.getppid()


def stages() -> list[str]:
    """Names of all stages: the modules of `rag_diffusion.stages`, each with a `run`."""
    return sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parents[1] / "stages")]))


def run_stage(name: str, root: Path | str = Path(), settings: Mapping[str, str] | None = None) -> None:
    """Run a stage of the pipeline in the project at `root`.

    Args:
        name: one of `stages()`, or an item of one, as `sweep@joint-3`.
        root: the directory that holds params.yaml.
        settings: of params.yaml, in place of what stands there.

    Raises:
        ConfigError: there is no such stage, it cannot use several processes, or params.yaml is wrong.
        RagDiffusionError: whatever the stage objects to.
    """
    base, _, item = name.partition("@")
    if base not in stages():
        raise ConfigError(f"{name}: expected a stage, one of {', '.join(stages())}")
    root = Path(root).resolve()
    config = load_config(root / "params.yaml", settings)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not getattr(_module(base), "SEVERAL_PROCESSES", False):
        raise ConfigError(f"{name}: expected one process, got several, which it cannot use; start it alone")
    if os.environ.get("RANK", "0") != "0":  # the first process tracks and writes the note
        _module(base).run(StageContext(config=config, root=root, tracker=NullTracker(), item=item))
        return
    note = root / declared(root, base).notes / f"{name}.run.json"
    with _alone(name, root, note) as wanted:
        if not wanted:
            return
        note.unlink(missing_ok=True)
        reason = why_skipped(base, root)
        about = {"experiment": experiment_of(config, root, name), "stage": name}
        if reason:
            write_skip(base, item, root, reason)
            _write(note, {"run_id": "", **about, "skipped": reason})
            return
        with open_tracker(config, root, name, _parent(base, item, root), also=settings or ()) as tracker:
            _module(base).run(StageContext(config=config, root=root, tracker=tracker, item=item))
        error = {"tracking_error": tracker.errors[0]} if tracker.errors else {}
        _write(note, {"run_id": tracker.run_id, **about, **origin(root), **error})


def _parent(stage: str, item: str, root: Path) -> str:
    """The run that an item is nested in: one for each stage and model."""
    if not item:
        return ""
    return f"{stage} of model {tree_hash(root / MODEL)[:8]}" if (root / MODEL).is_dir() else stage


@contextmanager
def _alone(name: str, root: Path, note: Path) -> Iterator[bool]:
    """Wait while another process runs this stage here: a stage outlives a `dvc repro` that is killed with -9.

    Whether it is still to be run: what outlived its `dvc repro` while it waited must not undo, by running now, what
    others have made meanwhile, which the next `dvc repro` may be about to hash.
    """
    path, since = root / SCRATCH / f"{name}.lock", time.time()
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
        wanted = not (_orphaned() and note.exists() and note.stat().st_mtime > since)
        if wanted:
            path.write_text(f"{os.getpid()}\n", encoding="utf-8")
        else:
            _LOG.warning(f"{name}: made by another process while this one waited, whose own starter has ended; left so")
        yield wanted
    finally:
        lock.release()


def _orphaned() -> bool:
    return os.getppid() == 1 or os.getppid() != _STARTED_BY


def _module(stage: str) -> Any:
    """The stage's module; it is imported only now, as it may need torch."""
    return importlib.import_module(f"rag_diffusion.stages.{stage}")


def _write(note: Path, content: Mapping[str, object]) -> None:
    atomic_write(note, json.dumps(content, indent=2) + "\n")
