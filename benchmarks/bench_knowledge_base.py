"""What does a knowledge base cost: filling it, opening it, asking it? For embedding see `bench_embedding.py`.

    python benchmarks/bench_knowledge_base.py ingest [--sizes 5000 20000]
    python benchmarks/bench_knowledge_base.py query [--size 20000] [--data-sets 4] [--queries 300]
    python benchmarks/bench_knowledge_base.py remote [--size 20000] [--queries 50]

`ingest` draws pairs (real captions' word statistics, 64 px PNG) and makes vectors of them without a network, so that
it is the cost of all but the network, and shows whether memory grows with the number of pairs. `query` asks a knowledge
base of several data sets, text to hits with metadata and images, and tells each part. `remote` asks the same pairs and
a server of 2,000 others on this machine, whose images are cached after the first time.

Each measurement runs in a process of its own. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from bench_lexical import synthetic
from PIL import Image

from rag_diffusion.config import load_config
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.layout import CORPUS, ENCODER
from rag_diffusion.readers.records import Item
from rag_diffusion.retrieval.encoder import Encoder
from rag_diffusion.retrieval.query import Query
from rag_diffusion.retrieval.query_metrics import latencies
from rag_diffusion.serving.server import create_app
from rag_diffusion.spans import recording, span
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.store.pairs import Pairs
from rag_diffusion.types import Hits

WIDTH, SIDE = 256, 64
TOP = 10
REMOTE = 2000  # pairs of the other machine
_PICTURES = 512  # distinct ones, for their bytes alone


class Synthetic:
    """Vectors by hashes of what they are of: as wide as the real ones, and made in no time."""

    hash = "synthetic"

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._basis = rng.normal(size=(SIDE * SIDE * 3 // 64, WIDTH)).astype(np.float32)

    def images(self, pixels: np.ndarray) -> np.ndarray:
        """One row an image."""
        small = pixels[:, ::8, ::8].reshape(len(pixels), -1).astype(np.float32) / 255 - 0.5
        return _unit(small @ self._basis)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """One row a text; texts with the same words are alike."""
        return _unit(np.stack([sum(map(_word, text.split()), np.zeros(WIDTH, np.float32)) for text in texts]))


class Asked(Synthetic):
    """The real encoder where a query, or what a remote sent for it, is embedded."""

    def __init__(self) -> None:
        self._real = Encoder(Path(ENCODER))

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """As the real one has it."""
        return self._real.texts(texts)

    def images(self, pixels: np.ndarray) -> np.ndarray:
        """As the real one has it."""
        return self._real.images(pixels)


_WORDS: dict[str, np.ndarray] = {}


def _word(word: str) -> np.ndarray:
    if word not in _WORDS:
        _WORDS[word] = np.random.default_rng(len(_WORDS)).normal(size=WIDTH).astype(np.float32)
    return _WORDS[word]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Drawn:
    """A reader of synthetic items."""

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed = count, seed
        self._captions = Corpus.open(CORPUS).table["caption"].tolist()
        rng = np.random.default_rng(seed)
        self._pictures = [png(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)) for _ in range(_PICTURES)]

    def __iter__(self) -> Iterator[Item]:
        for number, caption in enumerate(synthetic(self._captions, self._count, self._seed)):
            picture = self._pictures[number * 7 % _PICTURES]
            yield Item(name=f"{number:08d}", image=picture, caption=caption, label=f"class {number % 200}")


def png(tiles: np.ndarray, side: int = SIDE) -> bytes:
    """A PNG file of coloured tiles."""
    buffer = io.BytesIO()
    Image.fromarray(tiles).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


class Memory:
    """The most memory that this process's own data took while the block lasted, in MiB; mapped files do not count."""

    def __enter__(self) -> Memory:
        self.before = self.peak = _own()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.peak = max(self.peak, _own())

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            self.peak = max(self.peak, _own())


def _own() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def ingest(size: int) -> dict[str, float]:
    """Add one data set, and open it."""
    with tempfile.TemporaryDirectory() as name:
        base = KnowledgeBase(Path(name), load_config(), Synthetic())
        reader = Drawn(size, seed=0)
        start = time.perf_counter()
        with Memory() as adding:
            base.add("drawn", reader)
        added = time.perf_counter() - start
        space = sum(path.stat().st_size for path in Path(name).rglob("*") if path.is_file())
        again = KnowledgeBase(Path(name), load_config(), Synthetic())
        start = time.perf_counter()
        with Memory() as opening:
            again.retriever()
        opened = time.perf_counter() - start
    return {
        "pairs": size,
        "pairs_per_second": size / added,
        "add_s": added,
        "add_peak_mib": adding.peak,
        "add_grown_mib": adding.peak - adding.before,
        "max_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "disk_mib": space / 2**20,
        "open_s": opened,
        "open_grown_mib": opening.peak - opening.before,
    }


def query(size: int, data_sets: int, queries: int, factory: str) -> dict[str, Any]:
    """Ask one text after the other."""
    with tempfile.TemporaryDirectory() as name:
        base = _filled(Path(name), size, data_sets, factory)
        start = time.perf_counter()
        with Memory() as opening:
            base.retriever()
        opened = time.perf_counter() - start
        parts = _asked(queries, lambda text: (base.search(Query([text], top_k=TOP)).hits[0], base.retriever().corpus))
    return {"pairs": size, "data_sets": data_sets, "factory": factory, "open_s": opened,
            "open_grown_mib": opening.peak - opening.before} | parts  # fmt: skip


def remote(size: int, queries: int) -> dict[str, Any]:
    """The same with a remote data set, all of whose images have been fetched once."""
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as there:
        base = _filled(Path(name), size, 1, "Flat")
        with _served(_filled(Path(there), REMOTE, 1, "Flat")) as url:
            base.writer.add_remote("there", url, allow_hosts=["127.0.0.1"])

            def ask(text: str) -> tuple[Hits, Pairs]:
                results = base.search(Query([text], top_k=TOP))
                assert not results.trouble, results.trouble
                assert results.retrievers[0] is not None
                return results.hits[0], results.retrievers[0].corpus

            _asked(queries, ask)
            parts = _asked(queries, ask)
    return {"pairs": size, "remote_pairs": REMOTE} | parts


def _filled(root: Path, size: int, data_sets: int, factory: str) -> KnowledgeBase:
    """A knowledge base that was made with vectors from nowhere, and is asked with the real encoder."""
    config = load_config()
    config = config.model_copy(update={"index": config.index.model_copy(update={"factory": factory})})
    base = KnowledgeBase(root, config, Synthetic())
    for number in range(data_sets):
        base.add(f"drawn-{number}", Drawn(size // data_sets, seed=number))
    return KnowledgeBase(root, config, Asked())


def _asked(queries: int, search: Callable[[str], tuple[Hits, Pairs]]) -> dict[str, float]:
    """Milliseconds by part, text to hits with metadata and images; the first query does not count."""
    captions = Corpus.open(CORPUS).table["caption"].tolist()
    roots = []
    for text in synthetic(captions, queries + 1, seed=99):
        with recording("query") as root:
            hits, pairs = search(text)
            with span("metadata", "TOOL"):
                rows = pairs.rows(hits.pair_ids)
                columns = [pairs.cells(column, rows) for column in ("caption", "source", "licence", "attribution")]
                assert len(columns[0]) == TOP
            with span("images", "TOOL"):
                assert len([pairs.pair(pair_id).image for pair_id in hits.pair_ids]) == TOP
        roots.append(root)
    return {key: round(value, 3) for key, value in latencies(roots).items()}


@contextmanager
def _served(base: KnowledgeBase) -> Iterator[str]:
    """URL of a server over it, in this process."""
    server = uvicorn.Server(uvicorn.Config(create_app(base), host="127.0.0.1", port=0, log_level="error"))
    running = threading.Thread(target=server.run, daemon=True)
    running.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    running.join()


def main() -> None:
    """Run one question."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("what", choices=["ingest", "query", "remote"])
    arguments.add_argument("--sizes", type=int, nargs="+", default=[5000, 20_000])
    arguments.add_argument("--size", type=int, default=20_000)
    arguments.add_argument("--data-sets", type=int, default=4)
    arguments.add_argument("--queries", type=int, default=300)
    arguments.add_argument("--factories", nargs="+", default=["Flat"])
    options = arguments.parse_args()
    if options.what == "ingest":
        results = [apart(ingest, size) for size in options.sizes]
    elif options.what == "remote":
        results = [apart(remote, options.size, options.queries)]
    else:
        results = [
            apart(query, options.size, options.data_sets, options.queries, factory) for factory in options.factories
        ]
    print_table(results)


def print_table(results: Sequence[Mapping[str, Any]]) -> None:
    """A row a key, a column a result; then the same as JSON."""
    for key in results[0]:
        print(f"| {key} | {' | '.join(_shown(one[key]) for one in results)} |")
    print(json.dumps(results))


def _shown(value: object) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


def apart(run: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Run in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(run, arguments)


if __name__ == "__main__":
    main()
