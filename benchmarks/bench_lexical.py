"""What does a lexical query cost, against the package rank_bm25, and are the scores the same?

    python benchmarks/bench_lexical.py [--sizes 100000 1000000] [--queries 2000] [--reference-queries 20]
    python benchmarks/bench_lexical.py --level [--sizes 100000]      in turns with bm25s (pip install bm25s numba)

Captions and queries are synthetic, see `synthetic`. Each engine builds in a process of its own, so that its peak memory
is its own; both answer the same queries. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rag_diffusion.layout import CORPUS
from rag_diffusion.retrieval.lexical import LexicalIndex, RankBm25
from rag_diffusion.retrieval.tokens import tokenize
from rag_diffusion.retrieval.weighting import K1, B
from rag_diffusion.store.corpus import Corpus

TOP, POOL = 10, 200
END = ""


def synthetic(captions: Sequence[str], count: int, seed: int) -> Iterator[str]:
    """Texts from a chain over the words of real ones: each word follows the last as often as it does there.

    So single words, pairs of words and lengths have the real frequencies.

    Args:
        captions: the real ones.
        count: how many to draw.
        seed: of every draw.
    """
    follow: dict[str, Counter[str]] = defaultdict(Counter)
    for caption in captions:
        words = caption.split()
        for word, after in zip([END, *words], [*words, END], strict=True):
            follow[word][after] += 1
    table = {word: (list(after), np.cumsum(list(after.values()))) for word, after in follow.items()}
    rng = np.random.default_rng(seed)
    draws = iter(())
    for _ in range(count):
        words, last = list[str](), END
        while True:
            after, sums = table[last]
            draw = next(draws, None)
            if draw is None:
                draws = iter(rng.random(1 << 16).tolist())
                draw = next(draws)
            last = after[int(np.searchsorted(sums, draw * sums[-1], side="right"))]
            if last == END:
                break
            words.append(last)
        yield " ".join(words)


def main() -> None:
    """Run every size."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    arguments.add_argument("--queries", type=int, default=2000)
    arguments.add_argument("--reference-queries", type=int, default=20)
    arguments.add_argument("--level", action="store_true", help="against bm25s with its numba and its numpy backend")
    options = arguments.parse_args()
    if options.level:
        for size in options.sizes:
            level(size, options.queries)
        return
    columns = ("captions", "engine", "build s", "peak MiB", "queries/s", "median ms", "p99 ms", "CPU ms")
    print(f"| {' | '.join(columns)} | times rank_bm25 | by CPU |")
    print("|---" * (len(columns) + 2) + "|")
    results = {str(size): compare(size, options.queries, options.reference_queries) for size in options.sizes}
    print(json.dumps(results))


def compare(size: int, queries: int, reference_queries: int) -> dict[str, Any]:
    """Both engines over the same captions, and how far their scores are apart."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = {
            "rank_bm25": _apart(_measure, "rank_bm25", size, reference_queries, folder),
            "sparse": _apart(_measure, "sparse", size, queries, folder),
        }
        theirs, ours = (np.load(folder / f"{engine}.npz") for engine in ("rank_bm25", "sparse"))
        count = len(theirs["top"])
        results["same_top_10"] = bool(np.array_equal(ours["top"][:count], theirs["top"]))
        differences = ours["scores"][: len(theirs["scores"])] - theirs["scores"]
        results["largest_difference"] = float(np.abs(differences).max())
    peer = results["rank_bm25"]
    for engine in ("rank_bm25", "sparse"):
        row = results[engine]
        times = row["queries_per_second"] / peer["queries_per_second"]
        print(
            f"| {size:,} | {engine} | {row['build_s']:.1f} | {row['peak_mib']:.0f} | {row['queries_per_second']:.1f} | "
            f"{row['median_ms']:.2f} | {row['p99_ms']:.2f} | {row['cpu_ms']:.2f} | {times:.0f} | "
            f"{peer['cpu_ms'] / row['cpu_ms']:.0f} |"
        )
    print(f"same top 10: {results['same_top_10']}; largest difference of a score: {results['largest_difference']:.1e}")
    return results


def level(size: int, queries: int, rounds: int = 5) -> None:
    """Queries a second of CPU time, one thread: ours with its tokenizing, bm25s without; the best round of each.

    Each round has queries of its own, so that no result is asked for twice on purpose.
    """
    import bm25s

    captions = Corpus.open(CORPUS).table["caption"].tolist()
    texts, asked = list(synthetic(captions, size, seed=0)), list(synthetic(captions, queries * (1 + rounds), seed=1))
    ours, split = LexicalIndex.build(iter(texts)), [tokenize(query) for query in asked]
    peers = {}
    for backend in ("numba", "numpy"):
        peers[backend] = bm25s.BM25(method="atire", k1=K1, b=B, backend=backend)
        peers[backend].index([tokenize(text) for text in texts], show_progress=False)
    runs: dict[str, Callable[[slice, int], Any]] = {
        "ours": lambda some, k: [ours.top(query, k) for query in asked[some]],
        "cutting alone": lambda some, k: [tokenize(query) for query in asked[some]],
    }
    for backend, peer in peers.items():
        runs[f"bm25s {backend}"] = lambda some, k, peer=peer: peer.retrieve(
            split[some], k=k, show_progress=False, n_threads=0
        )
    for k in (TOP, POOL):
        rates = defaultdict[str, list[float]](list)
        for number in range(1 + rounds):  # the first warms up
            some = slice(number * queries, (number + 1) * queries)
            for name, run in runs.items():
                start = time.process_time()
                run(some, k)
                rates[name].append(queries / (time.process_time() - start))
        print(
            f"{size:,} captions, top {k}, queries/s of CPU time in the first round, the median and the best of others:"
        )
        for name, (first, *others) in rates.items():
            print(f"    {name}: {first:,.0f}, {np.median(others):,.0f}, {max(others):,.0f}")


def _measure(engine: str, size: int, queries: int, folder: Path) -> dict[str, float]:
    captions = Corpus.open(CORPUS).table["caption"].tolist()
    texts = list(synthetic(captions, size, seed=0))
    query_texts = list(synthetic(captions, queries, seed=1))
    before = _peak()
    start = time.perf_counter()
    index = LexicalIndex.build(iter(texts)) if engine == "sparse" else RankBm25(iter(texts))
    build = time.perf_counter() - start
    peak = _peak() - before
    times, tops = list[float](), list[np.ndarray]()
    index.top("warm up", TOP)
    cpu = time.process_time()
    for query in query_texts:
        start = time.perf_counter()
        tops.append(index.top(query, TOP)[0])
        times.append(time.perf_counter() - start)
    cpu = time.process_time() - cpu
    start = time.perf_counter()
    for query in query_texts if engine == "sparse" else []:
        index.top(query, POOL)
    deep = (time.perf_counter() - start) / queries
    every = np.arange(size)
    scores = np.stack([index.at(query, every) for query in query_texts[:5]])
    np.savez(folder / f"{engine}.npz", top=_square(tops), scores=scores)
    return {
        "build_s": build,
        "peak_mib": peak,
        "queries_per_second": len(times) / sum(times),
        "cpu_ms": 1000 * cpu / len(times),
        "median_ms": 1000 * float(np.median(times)),
        "p99_ms": 1000 * float(np.percentile(times, 99)),
        "top_200_ms": 1000 * deep,
    }


def _square(tops: list[np.ndarray]) -> np.ndarray:
    """(queries, TOP) rows; -1 where fewer share a word."""
    square = np.full((len(tops), TOP), -1)
    for row, top in enumerate(tops):
        square[row, : len(top)] = top
    return square


def _peak() -> float:
    """Most memory that this process has had, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _apart(run: Callable[..., dict[str, float]], *arguments: Any) -> Any:
    """A call in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(run, arguments)


if __name__ == "__main__":
    main()
