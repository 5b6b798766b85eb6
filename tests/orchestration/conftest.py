"""A small DVC project with the stages, edges and outs of the real dvc.yaml."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

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
        out.mkdir(parents=True)
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
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {
        **os.environ,
        "RAG_DIFFUSION_ROOT": str(tmp_path / "project"),
        "DAGSTER_HOME": str(home),
        "DVC_NO_ANALYTICS": "1",
        "PATH": path,
    }


@pytest.fixture
def instance(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """Dagster's memory of what the processes did."""
    monkeypatch.setenv("DAGSTER_HOME", environment["DAGSTER_HOME"])
    with dg.DagsterInstance.get() as instance:
        yield instance


@pytest.fixture
def project(tmp_path: Path, written: dict[str, dict[str, Any]], environment: dict[str, str]) -> Path:
    """The small project, in git, never run."""
    root = tmp_path / "project"
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
        subprocess.run(command, cwd=root, check=True, env=environment)
    return root


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
