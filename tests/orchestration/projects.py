"""A small DVC project with the stages, edges and outs of the real dvc.yaml, and what is done to it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from rag_diffusion.orchestration.project import Project
from rag_diffusion.orchestration.reproduce import asset_key

STAGE = '''"""Writes each out from the bytes of all deps; sleeps or fails where a file says so."""
import hashlib, json, os, sys, time, yaml
from pathlib import Path
from rag_diffusion.progress import progress, reporting_to_dagster
name, outs, deps = sys.argv[1], sys.argv[2].split(","), sys.argv[3].split(",")
Path("log.txt").open("a").write(name + "\\n")
print("stage", name, "speaks")
if Path(f"fail-{name}").exists():
    sys.exit("this stage was told to fail")
if Path(f"kill-{name}").exists():
    Path(f"kill-{name}").unlink()
    os.kill(os.getpid(), 9)
if Path(f"sleep-{name}").exists():
    Path("sleeping").touch()
    time.sleep(120)
files = [file for dep in deps for file in (Path(dep), *sorted(Path(dep).rglob("*")))]
with reporting_to_dagster():
    for file in progress(deps, desc=name, unit="dep"):
        pass
def table(path, **columns):
    import pyarrow as pa, pyarrow.parquet as pq
    pq.write_table(pa.table(columns), path)
def corpus(out):
    table(out / "pairs-00000.parquet", pair_id=["a", "b"], caption=["x", "y"], family=["a", "b"],
          duplicate_group=["a", "b"], split=["train", "test"])
    if Path("torn").exists():
        columns = {name: ["c"] for name in ("pair_id", "caption", "duplicate_group")}
        table(out / "pairs-00001.parquet", **columns, family=["a"], split=["test"])
def vectors(out):
    import numpy as np
    from safetensors.numpy import save_file
    save_file({"image": np.eye(2, dtype=np.float32), "text": np.eye(2, dtype=np.float32)}, out / "vectors.safetensors")
def index(out):
    (out / "recall.json").write_text(json.dumps({"depth": 10, "recall_text": 0.99}))
def neighbors(out):
    for name in ("training", "validation"):
        table(out / f"{name}.parquet", pair_id=["a"], neighbors=[["b"]])
    entry = {"exclude": ["a"], "retrieved": ["b"], "oracle": [], "random": ["b"]}
    (out / "prompts.json").write_text(json.dumps({"test-0000": entry}))
forms = {"corpus": corpus, "vectors": vectors, "index": index, "neighbors": neighbors}
values = yaml.safe_load(Path("params.yaml").read_text())
values = json.dumps([values.get("seed"), values.get(name)]).encode()
text = hashlib.sha256(b"".join(f.read_bytes() for f in files if f.is_file()) + values).hexdigest()
for out in map(Path, outs):
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".json" and "runs" in out.parts:
        out.write_text(json.dumps({"run_id": "0" * 32, "experiment": "tiny", "stage": name, "made_from": text}))
    elif out.suffix == ".json":
        interval = {"mean": 0.5, "low": 0, "high": 1}
        interval["high"] = int(text[:4], 16) / 65535
        gain = {"retrieved-none": {"joint": {"mean": 0.1, "low": 0.05, "high": 0.2}}}
        told = {"variants": {"none": {"joint": interval}}, "differences": gain, "text": text, "of": str(out)}
        out.write_text(json.dumps(told))
    elif out.suffix == ".csv":
        out.write_text("step,loss\\n1,0.5\\n2,0.4\\n")
    elif out.suffix:
        out.write_text(text)
    else:
        out.mkdir(parents=True, exist_ok=True)  # DVC leaves a persistent out where it is
        (out / "a.txt").write_text(text)
        forms.get(out.name, lambda folder: None)(out)
        if out.name == "sheets":
            from PIL import Image
            Image.new("RGB", (1200, 40), "#" + text[:6]).save(out / "retrieved.png")
'''

MORE: dict[str, dict[str, Any]] = {
    "index": {"min_recall": 0.98},
    "sweep": {"guidance": ["alternate"], "num_neighbors": [3]},
}


def flat_outs(stage: dict[str, Any]) -> list[str]:
    """Paths of all outs, metrics and plots of a stage as dvc.yaml writes them."""
    listed = [out for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
    return [next(iter(out)) if isinstance(out, dict) else out for out in listed]


def variables(project: Path, home: Path) -> dict[str, str]:
    """Environment of processes that work on a small project.

    Args:
        project: its root.
        home: Dagster's folder.
    """
    return {
        **os.environ,
        "RAG_DIFFUSION_ROOT": str(project),
        "DAGSTER_HOME": str(home),
        "DVC_NO_ANALYTICS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def commit(root: Path, environment: dict[str, str]) -> None:
    """Everything as it is now, in git; DVC's own commits too are made by this person."""
    for command in (
        ["config", "user.name", "t"],
        ["config", "user.email", "t@t"],
        ["add", "-A"],
        ["commit", "-qm", "a"],
    ):
        subprocess.run(["git", *command], cwd=root, check=True, env=environment)


def small(name: str, stage: dict[str, Any]) -> dict[str, Any]:
    """A stage with the same deps and outs that only copies hashes."""
    item = "@${key}" if "matrix" in stage else ""
    command = f"python stage.py {name}{item} {','.join(flat_outs(stage))} {','.join(stage['deps'])}"
    return {**stage, "cmd": command, "params": ["seed", "rate", f"{name}.size"]}


JOB = [
    sys.executable,
    "-m",
    "dagster",
    "job",
    "execute",
    "-m",
    "orchestration.definitions",
    "-j",
    "pipeline",
]

ALL = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "orchestration.definitions"]


def materialize(root: Path, environment: Mapping[str, str], *more: str) -> str:
    """Materialize all, as the button does. Returns what was printed."""
    command = [*ALL, *(more or ("--select", "*"))]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    return f"{done.returncode}\n{done.stdout}{done.stderr}"


def latest(instance: dg.DagsterInstance, asset: str) -> dg.AssetMaterialization:
    event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    assert event is not None
    assert event.asset_materialization is not None
    return event.asset_materialization


def ran(root: Path) -> list[str]:
    """The stages that ran since the last call, in order."""
    log = root / "log.txt"
    names = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    return names


def logged(shown: str) -> str:
    """What Dagster logged, without what stages printed themselves."""
    return "\n".join(line for line in shown.splitlines() if " - dagster - INFO - " in line)


def dvc(root: Path, environment: Mapping[str, str], *words: str) -> str:
    command = [sys.executable, "-m", "dvc", *words]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"dvc {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def processes(project: Path) -> dict[int, str]:
    """Living stage processes of the small project and their command lines."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().decode()
            if "stage.py" in command and (entry / "cwd").resolve() == project:
                found[int(entry.name)] = command
        except OSError:
            continue
    return found


def running(project: Path) -> list[str]:
    """Command lines of living stage processes of the small project."""
    return list(processes(project).values())


def stale(instance: dg.DagsterInstance, project: Project) -> dict[str, StaleStatus]:
    """What Dagster says of every stage whose code and parameters are those of the project now."""

    def asset_of(name: str) -> dg.AssetsDefinition:
        stage = project.stages[name]

        @dg.asset(
            key=asset_key(name),
            deps=[asset_key(up) for up in (*stage.upstream, *stage.external)],
            code_version=stage.code_version,
        )
        def made() -> None: ...

        return made

    assets = [asset_of(name) for name in project.stages]
    graph = dg.Definitions(assets=[*assets, *(dg.AssetSpec(name) for name in project.external)]).get_repository_def()
    resolver = CachingStaleStatusResolver(instance, graph.asset_graph, LoadingContextForTest(instance))
    return {name: resolver.get_status(asset_key(name)) for name in project.stages}


KILLS = [pytest.param(3, marks=pytest.mark.slow), pytest.param(20, marks=[pytest.mark.long, pytest.mark.timeout(1800)])]
