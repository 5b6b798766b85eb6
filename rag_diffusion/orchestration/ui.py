"""`make ui`: MLflow and Dagster in the browser, on free ports, until Ctrl-C.

MLFLOW_TRACKING_URI names another store. What they print goes to mlruns/ui.log and .dagster/ui.log.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from rag_diffusion.orchestration.metadata import MLFLOW_PAGE
from rag_diffusion.orchestration.processes import end_group, environment
from rag_diffusion.tracking import ARTIFACTS, STORE, views

HOST = "127.0.0.1"
MLFLOW_PORT, DAGSTER_PORT = 5000, 3000


def main(root: Path) -> None:
    """Serve both for the project at `root` until interrupted or until one of them ends."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    mlflow, dagster = free_port(MLFLOW_PORT), free_port(DAGSTER_PORT)
    pages = {"MLflow": f"http://{HOST}:{mlflow}", "Dagster": f"http://{HOST}:{dagster}"}
    store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / STORE}"
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}
    variables = environment() | quiet | {MLFLOW_PAGE: pages["MLflow"]}
    variables.setdefault("DAGSTER_HOME", str(root / ".dagster"))
    serve_runs = [sys.executable, "-m", "mlflow", "ui", "--host", HOST, "--port", str(mlflow), "--workers", "1"]
    serve_runs += [
        "--backend-store-uri",
        store,
        "--default-artifact-root",
        (root / ARTIFACTS).as_uri(),
    ]
    serve_stages = [sys.executable, "-m", "dagster", "dev", "--host", HOST, "--port", str(dagster)]
    print("starting; logs in mlruns/ui.log and .dagster/ui.log ...", flush=True)
    with (
        serving(serve_runs, root, variables, root / "mlruns" / "ui.log") as mlflow_server,
        serving(serve_stages, root, variables, root / ".dagster" / "ui.log") as dagster_server,
    ):
        while alive(mlflow_server, dagster_server) and not all(answers(page) for page in pages.values()):
            time.sleep(0.5)
        if alive(mlflow_server, dagster_server):
            pages["MLflow"] = runs_page(pages["MLflow"])
            print("".join(f"\n  {name:8} {page}" for name, page in pages.items()), flush=True)
            print("\n  Ctrl-C ends both.", flush=True)
        while alive(mlflow_server, dagster_server):
            time.sleep(0.5)
    sys.exit("error: one of them ended early; see its log")


def runs_page(mlflow: str) -> str:
    """The page of the server at `mlflow` with what counts: scored runs, else those of the experiment worked on last.

    MLflow's own first page is about language models and shows none of them; a sweep's first row has no numbers.
    """
    search = f"{mlflow}/api/2.0/mlflow/experiments/search?max_results=100&order_by=last_update_time%20DESC"
    with urlopen(search, timeout=30) as answer:  # noqa: S310
        experiments = json.load(answer).get("experiments", [])
    experiments.sort(key=lambda entry: not entry["name"].endswith("/evaluation"))  # keeps the order of the others
    return f"{mlflow}/#/experiments/{experiments[0]['experiment_id']}/runs?{views.KEY}" if experiments else mlflow


def free_port(first: int) -> int:
    """The first port from `first` on that nobody listens to."""
    for port in range(first, 65536):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise OSError(f"no port from {first} on is free")


@contextmanager
def serving(
    command: Sequence[str], root: Path, variables: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[str]]:
    """Run a server in a group of its own; end the group after.

    Args:
        command: that serves.
        root: where it runs.
        variables: its environment.
        log: gets what it prints.

    Yields:
        Its process.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=root, env=variables, start_new_session=True, text=True,
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            yield process
        finally:
            end_group(process, (signal.SIGINT, signal.SIGTERM, signal.SIGKILL))


def alive(*processes: subprocess.Popen[str]) -> bool:
    """Whether all of them still run."""
    return all(process.poll() is None for process in processes)


def answers(page: str) -> bool:
    """Whether a server answers at `page`."""
    try:
        urlopen(page, timeout=5).close()  # noqa: S310
    except HTTPError:
        return True
    except (URLError, OSError):
        return False
    return True


if __name__ == "__main__":
    try:
        main(Path.cwd())
    except KeyboardInterrupt:
        sys.exit(0)
