"""Whether this MLflow store has a run, without MLflow, whose import takes seconds."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import yaml

from rag_diffusion.tracking import STORE

_SQLITE = "sqlite:///"


def not_in_store(root: Path, run_id: str) -> str:
    """What to say of a run that this project's store does not have; empty where it has it, or cannot be asked.

    A result that DVC brought from a remote or from its run-cache names the run that made it, perhaps on another
    machine. Only a store in sqlite is asked, which is the default.

    Args:
        root: the project.
        run_id: of the run; empty where nothing was tracked.
    """
    store = _store(root)
    if not run_id or store is None or _has(store, run_id):
        return ""
    return f"this store ({store}) does not have that run: its result came from DVC's cache, or the store is a new one"


def _store(root: Path) -> Path | None:
    params = root / "params.yaml"
    content = yaml.safe_load(params.read_text(encoding="utf-8")) if params.is_file() else None
    section = content.get("tracking") if isinstance(content, dict) else None
    uri = (section or {}).get("uri") or os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{root.resolve() / STORE}"
    return Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None


def _has(store: Path, run_id: str) -> bool:
    """A store that cannot be read is not said to lack anything."""
    if not store.is_file():
        return False
    try:
        with sqlite3.connect(f"{store.resolve().as_uri()}?mode=ro", uri=True, timeout=5) as opened:
            return opened.execute("SELECT 1 FROM runs WHERE run_uuid = ?", [run_id]).fetchone() is not None
    except sqlite3.Error:
        return True
