"""What happens where a worker's machine has no memory left, or no room for a result."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def told(kind: str, marks: Path) -> subprocess.CompletedProcess[str]:
    """What a process says that has a cluster of its own: a test's has joined one already."""
    command = [sys.executable, "-m", "tests.unit.engine.short_of_room", kind, str(marks)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)


def test_a_unit_whose_worker_runs_out_of_memory_is_done_by_another(marks: Path) -> None:
    done = told("memory", marks)
    assert done.stdout.strip() == "[0, -1, -2, -3, -4, -5]"
    assert (marks / "taken").exists(), "unit 3 took more than there was"
    assert "ray: unit 4 is given to another worker" in done.stderr
    assert "running low on memory" in done.stderr


def test_a_result_without_room_is_told(marks: Path) -> None:
    done = told("disk", marks)
    assert done.stdout.startswith("DataError: ray: expected room for a result in the object store, got: ")
    assert "Local disk is full" in done.stdout
    assert "--object-store-memory" in done.stdout
