"""What does inserting one pair cost, and the query that finds it, by the number of pairs that are there?

    python benchmarks/bench_segments.py [--sizes 1000 10000 100000] [--copies 10 100] [--inserts 15] [--precision int8]

Vectors are random (256 wide, of 16 dimensions and some noise, so that an index can find them), pictures one PNG of 64
px, captions drawn from the words of a few lists: what is measured is files, indexes of words and vectors, and opening,
not the towers. With `--copies`, the largest set is measured once more as so many segments, each linked from it, so that
10^6 pairs need no hour to write; their ids repeat, which nothing here depends on. Another process opens them, to tell
their memory. Prints a table in milliseconds.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from rag_diffusion.config import load_config
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.retrieval.query import Query
from rag_diffusion.types import Pair

WIDTH, NAME = 256, "mine"
LISTS = (
    ["red", "green", "blue", "orange", "purple", "black", "pink", "gray", "golden", "teal"],
    ["round", "flat", "tall", "small", "outlined", "filled", "bold", "thin", "sharp", "soft"],
    [f"thing{number}" for number in range(5000)],
)


class RandomEncoder:
    """Unit vectors by nothing but their number."""

    hash = "0" * 64
    turn = np.random.default_rng(0).normal(size=(16, WIDTH))

    def images(self, pixels: np.ndarray) -> np.ndarray:
        """(Q, 256)."""
        return self._vectors(len(pixels))

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """(Q, 256)."""
        return self._vectors(len(texts))

    def _vectors(self, count: int) -> np.ndarray:
        rng = np.random.default_rng()
        vectors = (rng.normal(size=(count, 16)) @ self.turn + 0.3 * rng.normal(size=(count, WIDTH))).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def pairs(first: int, count: int) -> Iterator[Pair]:
    """Pairs that were checked before."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "white").save(buffer, "PNG")
    rng = np.random.default_rng(first)
    for number in range(first, first + count):
        color, shape, thing = (words[rng.integers(len(words))] for words in LISTS)
        pair_id = f"{NAME}/{number:08d}"
        caption = f"an icon of a {color} {shape} {thing}, plain style"
        yield Pair(
            pair_id=pair_id, source=NAME, entity=thing, family=thing, category="icons", style="plain", title=thing,
            caption=caption, licence="MIT", attribution="nobody", image=buffer.getvalue(), original=None, split="train",
            duplicate_group=pair_id,
        )  # fmt: skip


def measure(base: KnowledgeBase, first: int, inserts: int) -> list[float]:
    """Median milliseconds of an insertion, of the first query after it, of the second; and the slowest insertion."""
    times = []
    base.search(Query(["a red flat thing7"], top_k=10))
    for number in range(first, first + inserts):
        start = time.perf_counter()
        base.insert(NAME, pairs(number, 1))
        inserted = time.perf_counter()
        base.search(Query(["a red flat thing7"], top_k=10))
        found = time.perf_counter()
        base.search(Query(["a blue tall thing9"], top_k=10))
        times.append((inserted - start, found - inserted, time.perf_counter() - found))
    table = 1000 * np.asarray(times)
    return [*np.median(table, axis=0).tolist(), float(table[:, 0].max())]


def copied(base: KnowledgeBase, copies: int, name: str = NAME) -> int:
    """Make a data set so many segments of the largest that it has; how many pairs that are."""
    from rag_diffusion.store.segments import Segment, link_segment, segments_of, together

    folders, old = base.catalogue.folders, base.info(name)
    largest = max(segments_of(old), key=lambda segment: segment.manifest.num_pairs)
    new, segments = folders.generation(name, old.generation + 1), []
    for number in range(1, copies + 1):
        files = {name: facts | {"sha256": f"{number:064x}"} for name, facts in largest.manifest.files.items()}
        segments.append(Segment(f"s{number:05d}", replace(largest.manifest, files=files)))  # else it would be but one
        link_segment(
            folders.generation(name, old.generation) / largest.folder, new / segments[-1].folder, largest.manifest
        )
    manifest = replace(together(old, segments), generation=old.generation + 1)
    manifest.write(folders.manifest(name))
    return manifest.num_pairs


def resident() -> float:
    """MiB of this process that are its own: what is mapped from files is not counted."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def opening(base: KnowledgeBase) -> None:
    """Print what opening takes, and the first query."""
    before, start = resident(), time.perf_counter()
    total = len(base.retriever().corpus)
    opened, own = time.perf_counter() - start, resident() - before
    base.search(Query(["a red flat thing7"], top_k=10))
    print(f"opened {total:,} pairs in {opened:.2f} s, {time.process_time():.1f} s of CPU with all imports; own memory "
          f"{own:.0f} MiB, {resident() - before:.0f} after a query", flush=True)  # fmt: skip


def main() -> None:
    """Run every size."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--open", type=Path, help="open the data set of this folder, and nothing else")
    arguments.add_argument("--precision", default="float32")
    arguments.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    arguments.add_argument("--copies", type=int, nargs="*", default=[])
    arguments.add_argument("--inserts", type=int, default=15)
    options = arguments.parse_args()
    config = load_config("params.yaml", {"index.precision": options.precision})
    if options.open:
        opening(KnowledgeBase(options.open, config, RandomEncoder()))
        return
    print("| pairs | an insertion | the first query after it | the second | the slowest insertion |")
    print("|---|---|---|---|---|")
    for size in options.sizes:
        root = Path(tempfile.mkdtemp(prefix="bench-segments-"))
        try:
            base = KnowledgeBase(root, config, RandomEncoder())
            base.insert(NAME, pairs(0, size))
            row = measure(base, size, options.inserts)
            print(f"| {size:,} | {' | '.join(f'{value:.0f}' for value in row)} |", flush=True)
            for copies in options.copies if size == max(options.sizes) else ():
                total = copied(base, copies)
                base = KnowledgeBase(root, config, RandomEncoder())
                base.writer.merger.after = lambda manifest: None  # so many of one size would be merged
                subprocess.run([sys.executable, __file__, "--open", str(root)], check=True)
                row = measure(base, 10 * total, options.inserts)
                print(f"| {total:,} | {' | '.join(f'{value:.0f}' for value in row)} |", flush=True)
        finally:
            shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
