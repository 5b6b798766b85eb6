"""Who started a stage, and from which code: facts that its MLflow run and its run.json both hold."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

DAGSTER_RUN = "RAG_DIFFUSION_DAGSTER_RUN"  # set by the Dagster step that runs the stage
_EXPERIMENT = "DVC_EXP_NAME"  # set by `dvc exp run`


def origin(root: Path | str) -> dict[str, str]:
    """What is known of `git_commit` and `git_dirty` of the project at `root`, of `dagster_run` and `dvc_experiment`."""
    facts = {"dagster_run": os.environ.get(DAGSTER_RUN, ""), "dvc_experiment": os.environ.get(_EXPERIMENT, "")}
    try:
        facts["git_commit"] = _output(root, "git", "rev-parse", "HEAD")
        facts["git_dirty"] = str(bool(_output(root, "git", "status", "--porcelain"))).lower()
    except (OSError, subprocess.CalledProcessError):
        pass
    return {name: value for name, value in facts.items() if value}


def _output(root: Path | str, *command: str) -> str:
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.strip()
