"""MLflow stores for tests: other ones, and servers that can be killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from rag_diffusion.config import Config


def mlflow_client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri)


def at(config: Config, uri: str) -> Config:
    """The same with another store."""
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"uri": uri})})


def serve(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """An MLflow server in a group of its own, once it answers."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'served.db'}"]
    command += ["--default-artifact-root", (folder / "served").as_uri()]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, env=os.environ | quiet
        )
    wait_for(lambda: answers(port))
    return server


def answers(port: int) -> bool:
    try:
        urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
    except OSError:
        return False
    return True


def wait_for(holds: Callable[[], bool], seconds: float = 120.0) -> None:
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up, "it never came"
        time.sleep(0.3)
