"""A small DVC project with the stages, edges and outs of the real dvc.yaml."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from tests.orchestration.projects import MORE, STAGE, dvc, flat_outs, ran, small, variables


@pytest.fixture(scope="session")
def written(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    """The stages of the repository's dvc.yaml, as YAML."""
    content = yaml.safe_load((request.config.rootpath / "dvc.yaml").read_text())
    stages: dict[str, dict[str, Any]] = content["stages"]
    return stages


@pytest.fixture(scope="session")
def pipeline(request: pytest.FixtureRequest, written: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The stages by name, one for each item of a matrix."""
    params = yaml.safe_load((request.config.rootpath / "params.yaml").read_text())
    stages = {}
    for name, stage in written.items():
        matrix = stage.get("matrix", {})
        values = [params[where.strip("${}").split(".")[0]][key] for key, where in matrix.items()]
        for chosen in itertools.product(*values) if matrix else [()]:
            key = "-".join(map(str, chosen))
            text = yaml.safe_dump(stage).replace("${key}", key)
            stages[f"{name}@{key}" if matrix else name] = yaml.safe_load(text)
    return stages


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables of a process that works on the small project."""
    home = tmp_path / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    return variables(tmp_path / "project", home)


@pytest.fixture
def instance(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """Dagster's memory of what the processes did."""
    monkeypatch.setenv("DAGSTER_HOME", environment["DAGSTER_HOME"])
    with dg.DagsterInstance.get() as instance:
        yield instance


@pytest.fixture
def project(tmp_path: Path, never_run: Path, environment: dict[str, str]) -> Path:
    """The small project, in git, never run."""
    return Path(shutil.copytree(never_run, tmp_path / "project"))


@pytest.fixture
def made(project: Path, all_run: Path) -> Path:
    """The small project after `dvc repro`."""
    shutil.rmtree(project)
    return Path(shutil.copytree(all_run, project))


@pytest.fixture(scope="session")
def all_run(tmp_path_factory: pytest.TempPathFactory, never_run: Path) -> Path:
    """A project to copy: every stage has run, once for all tests."""
    root = Path(shutil.copytree(never_run, tmp_path_factory.mktemp("all-run") / "project"))
    dvc(root, variables(root, root), "repro")
    ran(root)
    return root


@pytest.fixture(scope="session")
def never_run(tmp_path_factory: pytest.TempPathFactory, written: dict[str, dict[str, Any]]) -> Path:
    """A project to copy."""
    root = tmp_path_factory.mktemp("never-run") / "project"
    root.mkdir()
    produced = {out for stage in written.values() for out in flat_outs(stage)}
    for dep in {dep for stage in written.values() for dep in stage["deps"]} - produced:
        (root / dep).parent.mkdir(parents=True, exist_ok=True)
        (root / dep if Path(dep).suffix else root / dep / "input").parent.mkdir(parents=True, exist_ok=True)
        (root / dep if Path(dep).suffix else root / dep / "input").write_text(dep)
    stages = {name: small(name, stage) for name, stage in written.items()}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    sizes: dict[str, dict[str, Any]] = {name: {"size": 1} for name in written}
    for name, values in MORE.items():
        sizes[name] |= values
    (root / "params.yaml").write_text("seed: 0\nrate: 0.00005\n" + yaml.safe_dump(sizes))
    (root / "stage.py").write_text(STAGE)
    (root / ".gitignore").write_text("/log.txt\n")
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        subprocess.run(command, cwd=root, check=True, env=variables(root, root))
    return root
