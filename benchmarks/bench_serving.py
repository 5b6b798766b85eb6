"""What requests cost the served model: wrong ones, the largest that are taken, and the same again.

    python benchmarks/bench_serving.py PROJECT [--prompts 4] [--steps 4] [--times 5]

Registers the project's model in a store of its own, as `rag-diffusion promote` does after its checks, serves it as
README says (`mlflow models serve`), and asks. Memory is that of the server and its processes.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import requests

MEBIBYTE = 2**20
PROMPT = "Noto emoji of a red apple"
PROMOTE = """
import sys
from pathlib import Path
from rag_diffusion.config import load_config
from rag_diffusion.serving import registry
root = Path(sys.argv[1])
print(registry.promote(root, load_config(root / "params.yaml"), None, {}))
"""


def asked(*prompts: Any, **params: Any) -> bytes:
    """A request's body."""
    return json.dumps({"dataframe_records": [{"prompt": one} for one in prompts], "params": params}).encode()


def wrong() -> dict[str, tuple[bytes, str | None]]:
    """Requests that are to be refused, with their content type."""
    form = "application/json"
    return {
        "seed 2**70": (asked(PROMPT, seed=2**70), form),
        "0 steps": (asked(PROMPT, num_inference_steps=0), form),
        "1e9 steps": (asked(PROMPT, num_inference_steps=10**9), form),
        "-5 steps": (asked(PROMPT, num_inference_steps=-5), form),
        "empty prompt": (asked(""), form),
        "prompt 5": (asked(5), form),
        "prompt null": (asked(None), form),
        "prompt NaN": (b'{"dataframe_records": [{"prompt": NaN}]}', form),
        "depth 100,000": (b"[" * 100_000, form),
        "no content type": (asked(PROMPT), None),
        "prompt of 10 MB": (asked("a" * 10_000_000), form),
        "1,000 prompts": (asked(*[PROMPT] * 1000), form),
    }


class Served:
    """The model behind MLflow's server."""

    def __init__(self, store: str, cwd: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/rag-diffusion@champion"]
        command += ["--env-manager", "local", "-p", str(self.port)]
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # of uvicorn
        variables = os.environ | {"MLFLOW_TRACKING_URI": store, "PATH": path}
        self._process = subprocess.Popen(
            command, cwd=cwd, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        give_up = time.monotonic() + 300
        while self.ping() is None:
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError("expected a server, but it ended or does not answer")
            time.sleep(0.5)

    def ping(self) -> float | None:
        """Seconds until `/ping` answers."""
        start = time.monotonic()
        with suppress(requests.RequestException):
            requests.get(f"http://127.0.0.1:{self.port}/ping", timeout=30).raise_for_status()
            return time.monotonic() - start
        return None

    def memory(self) -> float:
        """MiB that it and its processes have for themselves."""
        size = 0
        for one in (whole := psutil.Process(self._process.pid), *whole.children(recursive=True)):
            with suppress(psutil.Error):
                size += one.memory_full_info().uss
        return size / MEBIBYTE

    def ask(self, body: bytes, kind: str | None) -> dict[str, Any]:
        """What comes of a request."""
        with self._peak() as seen:
            headers = {} if kind is None else {"content-type": kind}
            answer = requests.post(f"http://127.0.0.1:{self.port}/invocations", data=body, headers=headers, timeout=900)
        told = {"status": answer.status_code, "bytes": len(answer.content), "traced": "Traceback" in answer.text}
        return seen | told

    @contextmanager
    def _peak(self) -> Iterator[dict[str, Any]]:
        """The most memory meanwhile, how long it took, and the slowest answer of `/ping`."""
        seen: dict[str, Any] = {"idle": round(self.memory(), 1)}
        peak, slow, done = [0.0], [0.0], threading.Event()

        def watch() -> None:
            while not done.wait(0.05):
                peak[0] = max(peak[0], self.memory())

        def health() -> None:
            while not done.wait(0.2):
                slow[0] = max(slow[0], self.ping() or 30.0)

        threads = [threading.Thread(target=one) for one in (watch, health)]
        start = time.monotonic()
        for one in threads:
            one.start()
        try:
            yield seen
        finally:
            done.set()
            for one in threads:
                one.join()
            peak[0] = max(peak[0], self.memory())
            seen |= {"over": round(peak[0] - seen["idle"], 1), "ping": round(slow[0], 2)}
            seen["seconds"] = round(time.monotonic() - start, 2)

    def close(self) -> None:
        """End it."""
        for one in (*psutil.Process(self._process.pid).children(recursive=True), self._process):
            with suppress(psutil.Error):
                one.kill()
        self._process.wait()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--prompts", type=int, default=4, help="in one request")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--times", type=int, default=5, help="that the same request is sent")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        store = f"sqlite:///{scratch}/mlflow.db"
        variables = os.environ | {"MLFLOW_TRACKING_URI": store}
        subprocess.run([sys.executable, "-c", PROMOTE, str(options.project)], env=variables, check=True)
        served = Served(store, options.project)
        try:
            large = asked(*[PROMPT] * options.prompts, num_inference_steps=options.steps)
            for number in range(options.times):
                print(
                    f"{options.prompts} prompts, time {number + 1}", served.ask(large, "application/json"), flush=True
                )
            for name, (body, kind) in wrong().items():
                print(name, served.ask(body, kind), flush=True)
        finally:
            served.close()


if __name__ == "__main__":
    main()
