"""What the API answers under load: against the sampler's own rate, beyond its queue, and a long mix of good and bad.

    python benchmarks/bench_api.py [PROJECT] [--clients 16] [--pictures 96] [--mix 10000] [--seconds 60] [--only PART]

Parts: `rate` (as many pictures by the sampler alone, then by parallel clients of a server in one process),
`overload` (more clients than the queue has room for), `mix`. PROJECT has a model and a knowledge base; without one
the base generator and two small data sets are taken.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
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
import uvicorn

from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.sampling.studio import draw_batch
from rag_diffusion.serving.connections import bounded_protocol
from rag_diffusion.serving.draw_options import DrawOptions
from rag_diffusion.serving.drawing_queue import DrawingQueue
from rag_diffusion.serving.server import Access, create_app

ROOT = Path(__file__).resolve().parents[1]
PROMPTS = ["a red square in noto style", "a green circle, twemoji style", "a blue moon in noto style", "an orange ring"]
DRAWING, BATCHES = "rag_diffusion_drawing_seconds_total", "rag_diffusion_batch_pictures_count"
DRAW = {"prompt": PROMPTS[0], "num_neighbors": 1}


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
    """What `rag-diffusion ui` serves but the page, in a thread of this process: clients and sampler share its cores."""

    def __init__(self, root: Path, **bounds: int) -> None:
        base = KnowledgeBase.open(root)
        self.queue = DrawingQueue(root, base, **bounds)
        app = create_app(base, Access(), drawing=self.queue)
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", http=bounded_protocol(), ws="none")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        self.queue.pipeline  # noqa: B018  # is there
        while not self._server.started:
            time.sleep(0.05)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def memory(self) -> float:
        """MiB of this process and its own."""
        me = psutil.Process()
        return float(sum(one.memory_info().rss for one in (me, *me.children(recursive=True))) / 2**20)

    def metric(self, line: str) -> float:
        """One number of `/metrics`."""
        text = requests.get(f"{self.url}/metrics", timeout=600).text
        return float(next(one for one in text.splitlines() if one.startswith(line)).rsplit(" ", 1)[1])

    def close(self) -> None:
        """End it."""
        self._server.should_exit = True
        self._thread.join(120)
        self.queue.close()


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


def alone(server: Server, size: int, steps: int, count: int) -> tuple[float, float]:
    """Pictures a second, and processor seconds of each, of the sampler by itself in batches of a size."""
    base, options = server.queue.base, DrawOptions(num_inference_steps=steps)
    begun, worked = time.monotonic(), time.process_time()
    for first in range(0, count, size):
        wanted = [options.model_copy(update={"seed": first + row}) for row in range(size)]
        draw_batch(
            server.queue.pipeline,
            [one.requests(base.config, PROMPTS[row % 4], 1)[0] for row, one in enumerate(wanted)],
        )
    return count / (time.monotonic() - begun), (time.process_time() - worked) / count


def rate(root: Path, args: argparse.Namespace) -> None:
    """The sampler by itself, then parallel clients of a server, in one process, in turns."""
    server, count = Server(root), args.pictures
    drawn(server, 0, 1)
    for _ in range(args.rounds):
        found = {size: alone(server, size, args.steps, count) for size in (1, 8, 16)}
        before = {line: server.metric(line) for line in (DRAWING, BATCHES)}
        begun, worked = time.monotonic(), time.process_time()
        with ThreadPoolExecutor(args.clients) as pool:
            times = list(pool.map(drawn, [server] * count, range(count), [args.steps] * count))
        seconds, work = time.monotonic() - begun, (time.process_time() - worked) / count
        busy, batches = (server.metric(line) - value for line, value in before.items())
        best, least = max(pace for pace, _ in found.values()), min(work for _, work in found.values())
        print("sampler alone, batch: pictures/s and processor seconds a picture:")
        print({size: tuple(round(value, 3) for value in pair) for size, pair in found.items()})
        print(
            f"{args.clients} clients: {count / seconds:.3f} pictures/s, {count / seconds / best:.2f} of the best; "
            f"{work:.3f} processor seconds a picture, of which the sampler's least is {least / work:.2f}; it drew "
            f"{busy / seconds:.2f} of the time, {count / batches:.1f} pictures a batch; {told(times)}",
            flush=True,
        )
    server.close()


def overload(root: Path, args: argparse.Namespace) -> None:
    """Three times as many clients as there is room for, for some time; who is refused comes again after a second."""
    waiting = 16
    server = Server(root, waiting=waiting)
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
