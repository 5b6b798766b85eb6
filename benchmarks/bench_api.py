"""What the API answers under load: against the sampler's own rate, beyond its queue, and a long mix of good and bad.

    python benchmarks/bench_api.py [PROJECT] [--clients 16] [--pictures 96] [--mix 10000] [--seconds 60] [--only PART]

Parts: `rate` (as many pictures by the sampler alone, then by parallel clients of a server on the same cores),
`overload` (more clients than the queue has room for), `mix`. PROJECT has a model and a knowledge base; without one
the base generator and two small data sets are taken.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests

ROOT = Path(__file__).resolve().parents[1]
PROMPTS = ["a red square in noto style", "a green circle, twemoji style", "a blue moon in noto style", "an orange ring"]
DRAWING = "rag_diffusion_drawing_seconds_total"
DRAW = {"prompt": PROMPTS[0], "num_neighbors": 1}
ALONE = """
import sys, time
from pathlib import Path
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.project import open_pipeline
from rag_diffusion.sampling.studio import PictureRequest, draw_batch
from rag_diffusion.serving.draw_options import DrawOptions
root, prompts = Path(sys.argv[1]), sys.argv[4:]
base = KnowledgeBase.open(root)
pipe = open_pipeline(root, None, base)
pipe.set_progress_bar_config(disable=True)
options = DrawOptions(num_inference_steps=int(sys.argv[3]))
def batch(size, first):
    return [options.model_copy(update={"seed": first + row}).requests(base.config, prompts[row % len(prompts)], 1)[0]
            for row in range(size)]
draw_batch(pipe, batch(2, 0))
for size in (1, 4, 8, 16):
    count, begun, worked = 0, time.monotonic(), time.process_time()
    while count < min(int(sys.argv[2]), 4 * size):
        draw_batch(pipe, batch(size, count))
        count += size
    print(size, count / (time.monotonic() - begun), (time.process_time() - worked) / count, flush=True)
"""


@contextmanager
def project(given: Path | None) -> Iterator[Path]:
    """The root of a project."""
    if given is not None:
        yield given
        return
    sys.path.insert(0, str(ROOT))
    from tests.unit.serving.served import two_data_sets

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shutil.copyfile(ROOT / "params.yaml", root / "params.yaml")
        (root / "data").mkdir()
        (root / "data" / "base").symlink_to(ROOT / "data" / "base")
        two_data_sets(root, ROOT)
        yield root


class Server:
    """`rag-diffusion ui` in a process of its own."""

    def __init__(self, root: Path, *words: str) -> None:
        self._log = Path(tempfile.mkstemp(prefix="bench-api-")[1])
        command = [sys.executable, "-m", "rag_diffusion", "ui", "--project", str(root), "--port", "0", *words]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        while not (line := re.search(r"running on (http://127\.0\.0\.1:\d+)", self._log.read_text())):
            if self._process.poll() is not None:
                raise RuntimeError(self._log.read_text())
            time.sleep(0.2)
        self.url = line[1]
        while requests.get(f"{self.url}/ready", timeout=20).status_code != 200:
            time.sleep(0.2)

    def memory(self) -> float:
        """MiB of it and its processes."""
        me = psutil.Process(self._process.pid)
        return float(sum(one.memory_info().rss for one in (me, *me.children(recursive=True))) / 2**20)

    def worked(self) -> float:
        """Seconds of processor time of it and its processes."""
        me = psutil.Process(self._process.pid)
        return float(sum(sum(one.cpu_times()[:2]) for one in (me, *me.children(recursive=True))))

    def metric(self, line: str) -> float:
        """One number of `/metrics`."""
        text = requests.get(f"{self.url}/metrics", timeout=60).text
        return float(next(one for one in text.splitlines() if one.startswith(line)).rsplit(" ", 1)[1])

    def close(self) -> None:
        """End it, and say what its log has beyond requests."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(120)
        wrong = [line for line in self._log.read_text().splitlines() if "ERROR" in line or "Traceback" in line]
        print("errors in its log:", len(wrong), wrong[:3])
        self._log.unlink()


def ask(url: str, session: requests.Session, path: str = "/v1/images/generations", **body: Any) -> tuple[str, float]:
    """Status and seconds of one request."""
    begun = time.monotonic()
    try:
        status = str(session.post(f"{url}{path}", timeout=600, **body).status_code)
    except requests.RequestException as error:
        status = type(error).__name__
    return status, time.monotonic() - begun


def told(times: list[float]) -> str:
    """Median and 99th percentile."""
    return (
        f"p50 {np.median(times):.2f} s, p99 {np.quantile(times, 0.99):.2f} s, most {max(times):.2f} s" if times else ""
    )


def drawn(server: Server, seed: int, steps: int) -> float:
    """Seconds of one picture."""
    body = {"prompt": PROMPTS[seed % len(PROMPTS)], "seed": seed, "num_inference_steps": steps}
    status, seconds = ask(server.url, requests.Session(), json=body)
    assert status == "200", status
    return seconds


def rate(root: Path, args: argparse.Namespace) -> None:
    """The sampler alone, then parallel clients of a server; twice, so that what else goes on shows."""
    for _ in range(args.rounds):
        words = [str(root), str(args.pictures // 2), str(args.steps), *PROMPTS]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        done = subprocess.run(
            [sys.executable, "-c", ALONE, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        lines = [line.split() for line in done.stdout.strip().splitlines()]
        alone = {int(size): (float(pace), float(work)) for size, pace, work in lines}
        server = Server(root)
        ask(server.url, requests.Session(), json={"prompt": PROMPTS[0], "num_inference_steps": 2})
        drawing, begun, worked = server.metric(DRAWING), time.monotonic(), server.worked()
        with ThreadPoolExecutor(args.clients) as pool:
            count = args.pictures
            times = list(pool.map(drawn, [server] * count, range(count), [args.steps] * count))
        seconds, work = time.monotonic() - begun, (server.worked() - worked) / count
        busy, batches = server.metric(DRAWING) - drawing, server.metric("rag_diffusion_batch_pictures_count") - 1
        best, least = max(pace for pace, _ in alone.values()), min(work for _, work in alone.values())
        print("sampler alone, batch: pictures/s, processor seconds a picture:", alone)
        print(
            f"{args.clients} clients: {count / seconds:.3f} pictures/s, {count / seconds / best:.2f} of the best; "
            f"{work:.3f} processor seconds a picture, the sampler's least is {least / work:.2f} of it; it drew "
            f"{busy / seconds:.2f} of the time, {count / batches:.1f} pictures a batch; {told(times)}",
            flush=True,
        )
        server.close()


def overload(root: Path, args: argparse.Namespace) -> None:
    """Three times as many clients as there is room for, for some time; who is refused comes again after a second."""
    server, waiting = Server(root, "--waiting", "16"), 16
    end, answers, times = time.monotonic() + args.seconds, Counter[str](), list[float]()

    def client(number: int) -> None:
        session = requests.Session()
        while time.monotonic() < end:
            body = {"prompt": PROMPTS[number % len(PROMPTS)], "num_inference_steps": args.steps}
            status, seconds = ask(server.url, session, json=body)
            answers[status] += 1
            if status == "200":
                times.append(seconds)
            else:
                time.sleep(1)

    with ThreadPoolExecutor(3 * waiting) as pool:
        list(pool.map(client, range(3 * waiting)))
    seconds = server.metric(DRAWING)
    pace = seconds / max(1.0, server.metric('rag_diffusion_pictures_total{end="drawn"}'))
    bound = (waiting + 2 * 8) * pace
    print(f"overload: {dict(answers)}; {told(times)}; queue, batch and its own batch at {pace:.2f} s: {bound:.1f} s")
    server.close()


def bad(rng: random.Random) -> dict[str, Any]:
    """A request that is wrong in one of many ways: arguments of `ask`."""
    values: list[Any] = [None, True, -1, 2**70, 0.5, "", "a" * 3000, "\u202e", [], [[]] * 9, {}, {"a": 1}, ["a"] * 99]
    names = [
        "prompt",
        "n",
        "size",
        "seed",
        "where",
        "neighbors",
        "guidance",
        "stream",
        "style_images",
        "colour",
        "model",
    ]
    path = rng.choice(["/v1/images/generations", "/v1/images/edits", "/v1/images/variations", "/draw"])
    kind = rng.randrange(4)
    if kind == 0:
        return {"path": path, "data": bytes(rng.randrange(256) for _ in range(rng.randrange(300)))}
    if kind == 1 and path.startswith("/v1/images/e"):
        return {"path": path, "files": {"image": b"\x89PNG" + rng.randbytes(99)}, "data": {"prompt": "a"}}
    body = {"prompt": "a red square", "num_inference_steps": 1}
    body |= {rng.choice(names): rng.choice(values) for _ in range(rng.randrange(1, 4))}
    return {"path": path, "json": body | {"background": "transparent"}}


def good(rng: random.Random) -> dict[str, Any]:
    """A quick request that is right: arguments of `ask`."""
    body = {"prompt": rng.choice(PROMPTS), "num_inference_steps": 1, "num_neighbors": rng.randrange(3)}
    more = [{}, {"stream": True, "partial_images": 1}, {"response_format": "url"}, {"output_format": "webp"}]
    return {"json": body | rng.choice(more)}


def mix(root: Path, args: argparse.Namespace) -> None:
    """A long mix; a client in ten of the good ones leaves before its answer."""
    server, rng = Server(root), random.Random(7)
    answers, memory, done = Counter[tuple[str, str]](), list[float](), 0
    asked = [("good", good(rng)) if rng.random() < args.good else ("bad", bad(rng)) for _ in range(args.mix)]

    def client(kind: str, one: dict[str, Any]) -> None:
        nonlocal done
        if kind == "good" and random.random() < 0.1:
            kind = "left"
            with suppress(requests.RequestException):
                requests.post(f"{server.url}/draw", json=DRAW | {"num_inference_steps": 50}, timeout=0.05)
            status = "none"
        else:
            status, _ = ask(server.url, requests.Session(), **one)
        with lock:
            answers[kind, status] += 1
            done += 1
            if done % max(1, args.mix // 20) == 0:
                memory.append(round(server.memory(), 1))
                print(done, memory[-1], flush=True)

    lock, begun = threading.Lock(), time.monotonic()
    with ThreadPoolExecutor(args.clients) as pool:
        list(pool.map(lambda pair: client(*pair), asked))
    seconds = time.monotonic() - begun
    print(f"mix: {args.mix} requests in {seconds:.0f} s; {dict(answers)}; MiB from a twentieth on: {memory}")
    server.close()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path, nargs="?")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--mix", type=int, default=10_000)
    parser.add_argument("--good", type=float, default=0.3, help="share of requests that are right")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--only", choices=("rate", "overload", "mix"))
    args = parser.parse_args()
    parts = {"rate": rate, "overload": overload, "mix": mix}
    with project(args.project) as root:
        for name, part in parts.items():
            if args.only in (None, name):
                part(root, args)
    print(json.dumps({name: str(value) for name, value in vars(args).items()}))


if __name__ == "__main__":
    main()
