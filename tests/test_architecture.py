"""What may import what, and what stays cheap to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "faiss", "mlflow", "dagster", "dvc", "diffusers", "transformers", "pandas")


def imported_by(code: str, root: Path) -> set[str]:
    """Which heavy packages a fresh interpreter has after `code`."""
    ask = f"{code}\nimport sys\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", ask], cwd=root, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_layers_hold(project_root: Path) -> None:
    command = [str(Path(sys.executable).parent / "lint-imports")]
    done = subprocess.run(command, cwd=project_root, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize(
    "module",
    ["rag_diffusion", "rag_diffusion.terminal.app", "rag_diffusion.tracking", "rag_diffusion.stages.runner"],
)
def test_the_entry_points_import_nothing_heavy(module: str, project_root: Path) -> None:
    assert imported_by(f"import {module}", project_root) == set()
