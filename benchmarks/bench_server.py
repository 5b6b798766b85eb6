"""What single requests, many clients and nonsense cost the knowledge base's server, before and after, in one run.

    python benchmarks/bench_server.py [--before CHECKOUT] [--scale 0.05] [--seconds 60] [--fuzz 10000]

Both servers run over the same pairs with an encoder of a few lines, so that what is measured is the server. `--scale`
shrinks those bodies for the server before, which would take all the memory of a machine; the table says by how much.
Everything is asked of 127.0.0.1 alone.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests
from PIL import Image

LAUNCH = """
import sys
from pathlib import Path
from tests.unit.knowledge.bases import items, make_base
from rag_diffusion.serving import server
base = make_base(Path(sys.argv[1]))
if "photos" not in base.catalogue.names():
    base.add("photos", items(range(500)))
access = [server.Access()] if hasattr(server, "Access") else []
server.serve(base, *access, host="127.0.0.1", port=int(sys.argv[2]))
"""
MEBIBYTE = 2**20


@dataclass
class Seen:
    """What one thing did to a server.

    Attributes:
        idle, peak, after: MiB of the server and its processes.
        health: slowest answer of `/health` meanwhile, in seconds.
        seconds: that it took.
        answers: status -> how often; what got none is called by its error.
        times: seconds of each answer.
    """

    idle: float = 0.0
    peak: float = 0.0
    after: float = 0.0
    health: float = 0.0
    seconds: float = 0.0
    answers: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        """For the table and the JSON line."""
        times = np.asarray(self.times or [0.0])
        numbers = {"over": self.peak - self.idle, "kept": self.after - self.idle, "health": self.health}
        numbers |= {"seconds": self.seconds, "p50": float(np.median(times)), "p99": float(np.quantile(times, 0.99))}
        return {name: round(value, 2) for name, value in numbers.items()} | {"answers": dict(self.answers)}


class Served:
    """A server in a process of its own.

    Args:
        code: a checkout.
        root: of its project.
    """

    def __init__(self, code: Path, root: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-c", LAUNCH, str(root), str(self.port)]
        self._process = subprocess.Popen(command, cwd=code, env={"PYTHONPATH": str(code), "PATH": "/usr/bin:/bin"})
        end = time.monotonic() + 900
        while time.monotonic() < end:
            with suppress(requests.RequestException):
                if requests.get(f"{self.url}/health", timeout=5).ok:
                    return
            time.sleep(0.5)
        raise RuntimeError(f"{code}: expected a server within 900 s, got none")

    def memory(self) -> float:
        """MiB of it and its processes."""
        me = psutil.Process(self._process.pid)
        size = 0
        for one in (me, *me.children(recursive=True)):
            with suppress(psutil.Error):
                size += one.memory_info().rss
        return size / MEBIBYTE

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()

    @contextmanager
    def watched(self) -> Iterator[Seen]:
        """What happens to it meanwhile."""
        seen, stop = Seen(idle=self.memory()), threading.Event()
        seen.peak = seen.idle

        def look() -> None:
            while not stop.wait(0.02):
                seen.peak = max(seen.peak, self.memory())

        def ask() -> None:
            while not stop.wait(0.1):
                start = time.monotonic()
                with suppress(requests.RequestException):
                    requests.get(f"{self.url}/health", timeout=120)
                seen.health = max(seen.health, time.monotonic() - start)

        threads = [threading.Thread(target=one, daemon=True) for one in (look, ask)]
        for one in threads:
            one.start()
        start = time.monotonic()
        yield seen
        seen.seconds = time.monotonic() - start
        time.sleep(1)
        stop.set()
        threads[0].join()
        seen.after = self.memory()

    def post(self, seen: Seen, path: str, timeout: float = 120, **body: Any) -> None:
        """Ask, and note what came."""
        start = time.monotonic()
        try:
            answer = str(requests.post(f"{self.url}{path}", timeout=timeout, **body).status_code)
        except requests.RequestException as error:
            answer = type(error).__name__
        seen.answers[answer] += 1
        seen.times.append(time.monotonic() - start)


def long_list(size: int, one: bytes, head: bytes, tail: bytes) -> bytes:
    """A JSON object of about `size` bytes."""
    return head + (one + b",") * (size // (len(one) + 1)) + one + tail


def bodies(scale: float) -> dict[str, tuple[str, bytes]]:
    """Rows of the issue that are one body: path and content."""
    size = int(MEBIBYTE * scale)
    return {
        "D1 38 MiB of texts for a vector": (
            "/knn-service", long_list(38 * size, b'"a"', b'{"embedding_input":[', b"]}")),
        "D1 1.9 MiB of numbers for sources": (
            "/knn-service", long_list(int(1.9 * size), b"1", b'{"text":"a","where":{"source":[', b"]}}")),
        "D1 1,015 KiB of texts for ids": ("/metadata", long_list(int(0.99 * size), b'"a"', b'{"ids":[', b"]}")),
        "D3 57 MiB of ignored numbers": ("/knn-service", long_list(57 * size, b"1", b'{"text":"a","x":[', b"]}")),
        "D3 40 MiB of names in a filter": (
            "/knn-service", long_list(40 * size, b'"a"', b'{"text":"a","where":{"source":[', b"]}}")),
    }  # fmt: skip


def large_picture() -> bytes:
    """8192 x 8192 with transparency in 275 KB."""
    buffer = io.BytesIO()
    Image.new("RGBA", (8192, 8192), (255, 0, 0, 128)).save(buffer, "PNG")
    return buffer.getvalue()


def pictures(served: Served, times: int, patience: float) -> Seen:
    """The same picture several times at once, at both doors; clients leave after a while."""
    content = large_picture()
    query = json.dumps({"image": base64.b64encode(content).decode(), "num_images": 1})
    with served.watched() as seen, ThreadPoolExecutor(times) as pool:
        for number in range(times):
            form = {"files": {"image": content}, "data": {"caption": f"a square {number}"}}
            path, body = ("/knn-service", {"data": query}) if number % 2 == 0 else ("/pairs", form)
            pool.submit(lambda path=path, body=body: served.post(seen, path, patience, **body))
    return seen


def half_heads(served: Served, count: int = 70) -> Seen:
    """Sockets with half a head, and what everybody else gets meanwhile."""
    held = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(count)]
    for one in held:
        one.sendall(b"GET /health HTTP/1.1\r\nHo")
    with served.watched() as seen:
        for _ in range(10):
            served.post(seen, "/knn-service", json={"text": "a red fox", "num_images": 1})
        time.sleep(12)
    for one in held:
        one.settimeout(0.5)
        with suppress(OSError):
            seen.answers["heads answered"] += bool(one.recv(100))
        one.close()
    return seen


def load(served: Served, clients: int, seconds: float) -> Seen:
    """Many clients that ask one query after the other."""
    end = time.monotonic() + seconds

    def ask(number: int) -> None:
        while time.monotonic() < end:
            served.post(seen, "/knn-service", json={"text": f"a red fox {number}", "num_images": 5})

    with served.watched() as seen, ThreadPoolExecutor(clients) as pool:
        list(pool.map(ask, range(clients)))
    return seen


def fuzzed(served: Served, door: str, count: int) -> dict[str, Any]:
    """Nonsense at one door, and what memory does after its first twentieth."""
    rng, seen = random.Random(door), Seen()
    values: list[Any] = [None, True, -1, 2**70, 0.5, "", "a" * 999, "\u202e", [], [[]] * 9, {}, {"a": 1}, ["a"] * 99]
    names = ["text", "image", "image_url", "embedding_input", "ids", "where", "exclude", "caption", "name", "modality"]

    def one() -> None:
        asked = {rng.choice(names): rng.choice(values) for _ in range(rng.randrange(4))}
        content = json.dumps(asked).encode()
        if rng.random() < 0.3:
            content = bytes(rng.randrange(256) for _ in range(rng.randrange(200)))
        served.post(seen, door, data=content)

    for number in range(count):
        one()
        if number == count // 20:
            first = served.memory()
    return {"answers": dict(seen.answers), "first": round(first, 1), "last": round(served.memory(), 1)}


def measured(code: Path, args: argparse.Namespace, scale: float) -> dict[str, Any]:
    """All rows of one server."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        served = Served(code, Path(folder))
        rows: dict[str, Callable[[], Any]] = {
            "D2 one picture of 8192 x 8192": lambda: pictures(served, 1, 120).told(),
            f"D2 {args.pictures} of them at once": lambda: pictures(served, args.pictures, 30).told(),
            "D4 70 half heads": lambda: half_heads(served).told(),
            f"load: 100 clients for {args.seconds:g} s": lambda: load(served, 100, args.seconds).told(),
        }
        rows |= {f"fuzz {door}": lambda door=door: fuzzed(served, door, args.fuzz) for door in
                 ("/knn-service", "/metadata", "/pairs", "/archives")}  # fmt: skip
        try:
            for name, (path, content) in bodies(scale).items():
                with served.watched() as seen:
                    served.post(seen, path, data=content)
                found[name] = seen.told()
                print(name, found[name], flush=True)
            for name, row in rows.items():
                found[name] = row()
                print(name, found[name], flush=True)
        finally:
            served.close()
    return found


def main() -> None:
    """Measure both and print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout of the code before; this one alone without it")
    parser.add_argument("--scale", type=float, default=0.05, help="of the bodies that the server before gets")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--fuzz", type=int, default=10_000, help="requests for each door")
    parser.add_argument("--pictures", type=int, default=8, help="large ones at once")
    args = parser.parse_args()
    here = Path(__file__).resolve().parents[1]
    found = {"after": measured(here, args, 1.0)}
    if args.before:
        found["before"] = measured(args.before.resolve(), args, args.scale)
    print(json.dumps({"scale_before": args.scale, **found}))


if __name__ == "__main__":
    main()
