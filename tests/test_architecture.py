"""What may import what, what stays cheap to import, and how tests lie."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docstrings import missing_in

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
    ["rag_diffusion", "rag_diffusion.terminal.app", "rag_diffusion.tracking", "rag_diffusion.pipeline.runner"],
)
def test_the_entry_points_import_nothing_heavy(module: str, project_root: Path) -> None:
    assert imported_by(f"import {module}", project_root) == set()


def test_a_folder_of_unit_tests_is_one_of_the_package(project_root: Path) -> None:
    tests, library = project_root / "tests" / "unit", project_root / "rag_diffusion"
    folders = {path.parent.relative_to(tests) for path in tests.rglob("test_*.py")}

    assert {str(folder) for folder in folders if not (library / folder / "__init__.py").is_file()} == set()


def test_what_tests_share_stands_in_modules_that_are_no_tests(project_root: Path) -> None:
    """pytest gives fixtures of a conftest.py to its folder; imported they would be made twice."""
    borrowed = re.compile(
        r"^\s*(from tests\.(\S*\.)?(test_\w+|conftest) import|from tests(\.\S+)? import .*\btest_).*$", re.M
    )
    files = (project_root / "tests").rglob("*.py")

    assert {path.name: found[0] for path in files if (found := borrowed.search(path.read_text()))} == {}


def test_public_functions_document_their_arguments(project_root: Path) -> None:
    library = project_root / "rag_diffusion"
    rooms = library.iterdir()

    assert {place: names for room in rooms for place, names in missing_in(room).items()} == {}


@pytest.mark.slow
def test_every_benchmark_finds_what_it_measures(project_root: Path) -> None:
    names = [path.stem for path in (project_root / "benchmarks").glob("*.py")]
    code = f"import importlib\nfor name in {names!r}: importlib.import_module(name)"
    path = os.pathsep.join([str(project_root / "benchmarks"), str(project_root)])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project_root, env=os.environ | {"PYTHONPATH": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr[-3000:]
