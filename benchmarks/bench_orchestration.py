"""What does it cost that Dagster, DVC and MLflow tell the same? Against the bare tools, in one run.

    python benchmarks/bench_orchestration.py [--rounds 5]

Two projects in a temporary folder: the small one of the tests, with the stages and edges of dvc.yaml, and one with
three stages of no work. In turns it measures

- `dvc repro --force` of a stage of no work: a bare `python`; the bare tools, which import MLflow, open its store, and
  begin and end a run; and our runner, which does the same with parameters, tags and the note of the run. The glue is
  what the last takes beyond the one before it
- `dvc repro` of everything with nothing to do
- `dagster asset materialize` of everything with nothing to do, in one process and in several; beside it as many
  bare assets
- a tick of the sensor that tells Dagster of DVC's results: all of them new, none new, dvc.lock as it was
- loading the definitions
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.orchestration.projects import STAGE, flat_outs, small  # noqa: E402

MOST = {"glue of a stage": 3.0, "tick, all new": 3.0, "tick, none new": 3.0, "definitions": 5.0}
TOOLS = """
from pathlib import Path
from mlflow import MlflowClient
client = MlflowClient(f"sqlite:///{Path('mlruns/mlflow.db').resolve()}")
experiment = client.get_experiment_by_name("bare")
run = client.create_run(experiment.experiment_id if experiment else client.create_experiment("bare"))
client.set_terminated(run.info.run_id)
"""
OURS = """
import sys
from types import ModuleType
from rag_diffusion.pipeline.runner import run_stage

class Nothing(ModuleType):
    def run(self, context): ...

sys.modules["rag_diffusion.stages.index"] = Nothing("index")
run_stage("index")
"""
BARE_ASSETS = """
import dagster as dg

def bare(number):
    @dg.asset(name=f"bare_{number}")
    def made() -> None: ...
    return made

defs = dg.Definitions(assets=[bare(number) for number in range(%d)], executor=dg.%s)
"""
SEVERAL = """
import dagster as dg
from rag_diffusion.orchestration.assets import EXTERNAL_ASSETS, STAGE_ASSETS
from rag_diffusion.orchestration.checks import asset_checks

defs = dg.Definitions(
    assets=[*STAGE_ASSETS, *EXTERNAL_ASSETS], asset_checks=asset_checks(), executor=dg.multiprocess_executor
)
"""
TICKS = """
import json, time
import dagster as dg
from rag_diffusion.orchestration.sensors import dvc_results

times, cursor = {}, None
with dg.instance_for_test() as instance:
    for name in ("tick, all new", "tick, none new", "tick, lock as it was"):
        start = time.perf_counter()
        result = dvc_results(dg.build_sensor_context(instance, cursor=cursor))
        for event in getattr(result, "asset_events", None) or ():
            instance.report_runless_asset_event(event)
        times[name] = time.perf_counter() - start
        cursor = result.cursor if name == "tick, none new" else None
print(json.dumps(times))
"""
LOAD = """
import sys, time
start = time.perf_counter()
from rag_diffusion.orchestration.definitions import defs
defs.resolve_all_asset_specs()
print(time.perf_counter() - start)
assert not {"torch", "mlflow"} & sys.modules.keys()
"""


def write_projects(folder: Path) -> tuple[Path, Path]:
    """The pipeline without work, and the three stages without work."""
    whole, single = folder / "whole", folder / "single"
    stages: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    made = {out for stage in stages.values() for out in flat_outs(stage)}
    for dep in {dep for stage in stages.values() for dep in stage["deps"]} - made:
        file = whole / dep if Path(dep).suffix else whole / dep / "input"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dep)
    stages = {name: small(name, stage) | {"params": ["seed"]} for name, stage in stages.items()}
    (whole / "stage.py").write_text(STAGE)
    single.mkdir()
    for root, content in ((whole, stages), (single, {name: {"cmd": f"python {name}.py"} for name in SINGLE})):
        (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": content}, sort_keys=False))
        (root / "params.yaml").write_text((ROOT / "params.yaml").read_text())
        for command in (["git", "init", "-q"], ["dvc", "init", "-q"]):
            subprocess.run(command, cwd=root, check=True)
    for name, code in SINGLE.items():
        (single / f"{name}.py").write_text(code)
    return whole, single


SINGLE = {"python": "", "tools": TOOLS, "ours": OURS}


def seconds(command: list[str], folder: Path) -> float:
    """How long a command takes; it must end well."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(
            f"{' '.join(command)}: expected it to end well, got\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return time.perf_counter() - start


def answer(code: str) -> Any:
    """What a Python program prints last, as JSON."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def measure(folder: Path) -> dict[str, float]:
    """One round: seconds by what was done."""
    whole, single = folder / "whole", folder / "single"
    dvc, dagster = [sys.executable, "-m", "dvc"], [sys.executable, "-m", "dagster", "asset", "materialize", "--select"]
    repro = [*dvc, "repro", "--single-item", "--force"]
    times = {f"stage, {name}": seconds([*repro, name], single) for name in SINGLE}
    times["glue of a stage"] = times["stage, ours"] - times["stage, tools"]
    times["no-op dvc repro"] = seconds([*dvc, "repro"], whole)
    times["no-op materialize, in-process"] = seconds([*dagster, "*", "-m", "orchestration.definitions"], ROOT)
    times["no-op materialize, multiprocess"] = seconds([*dagster, "*", "-f", str(folder / "several.py")], ROOT)
    for executor in ("in-process", "multiprocess"):
        times[f"bare assets, {executor}"] = seconds([*dagster, "*", "-f", str(folder / f"{executor}.py")], ROOT)
    return times | answer(TICKS) | {"definitions": answer(LOAD)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        home = folder / "dagster"
        home.mkdir()
        (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        os.environ |= {"DAGSTER_HOME": str(home), "DVC_NO_ANALYTICS": "1", "MLFLOW_DISABLE_TELEMETRY": "true",
                       "PATH": path, "PYTHONPATH": str(ROOT), "RAG_DIFFUSION_ROOT": str(folder / "whole")}  # fmt: skip
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        whole, _ = write_projects(folder)
        stages = len(yaml.safe_load((whole / "dvc.yaml").read_text())["stages"])
        (folder / "several.py").write_text(SEVERAL)
        (folder / "in-process.py").write_text(BARE_ASSETS % (stages, "in_process_executor"))
        (folder / "multiprocess.py").write_text(BARE_ASSETS % (stages, "multiprocess_executor"))
        seconds([sys.executable, "-m", "dvc", "repro"], whole)
        for one in SINGLE:  # the first makes the store
            seconds([sys.executable, "-m", "dvc", "repro", "--single-item", one], folder / "single")
        report([measure(folder) for _ in range(options.rounds)], stages)


def report(rounds: list[dict[str, float]], stages: int) -> None:
    """Print a table and a JSON line."""
    median = {name: statistics.median(times[name] for times in rounds) for name in rounds[0]}
    print("| what | median s | least | most | wanted |\n|---|---|---|---|---|")
    for name, value in median.items():
        values = [times[name] for times in rounds]
        wanted = f"at most {MOST[name]:g}" if name in MOST else ""
        print(f"| {name} | {value:.2f} | {min(values):.2f} | {max(values):.2f} | {wanted} |")
    missed = [name for name, most in MOST.items() if median[name] > most]
    print(f"missed: {', '.join(missed) or 'nothing'}")
    facts = {"rounds": len(rounds), "stages": stages, "cores": os.cpu_count(), "machine": platform.machine(),
             "python": platform.python_version()}  # fmt: skip
    print(json.dumps({name: round(value, 3) for name, value in median.items()} | facts))


if __name__ == "__main__":
    main()
