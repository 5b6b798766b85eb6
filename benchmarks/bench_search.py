"""Recall against queries/s, bytes a vector and build time of indexes over the same vectors, on one thread.

    python benchmarks/bench_search.py make FOLDER --rows 1000000 --width 512   # vectors, and captions as queries
    python benchmarks/bench_search.py take FOLDER --rows 100000 --source VECTORS   # real ones, of a knowledge base
    python benchmarks/bench_search.py build FOLDER FACTORY [FACTORY ...]       # one index each, with its build time
    python benchmarks/bench_search.py compare FOLDER --recalls 0.95 0.98       # all that were built, in one run
    python benchmarks/bench_search.py precision FOLDER --recalls 0.95 0.98     # the same, of vectors in fewer bits
    python benchmarks/bench_search.py codes FOLDER                             # plain against score-aware codes of PQ

Vectors are made of the real ones of data/vectors: a random image moves towards a near neighbor and by a third of the
difference of two others, and its caption likewise, so that the gap between pictures and texts, the dense places and the
few dimensions are as they are in reality. More dimensions are a rotation and a little noise. Queries are captions that
are in no index, asked for images, one at a time. Times are those of the process's CPU, as others use the machine.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from rag_diffusion.arrays import Floats, Ints
from rag_diffusion.retrieval.ann import Exhaustive, SearchIndex, inner_products
from rag_diffusion.retrieval.index_files import build_index, load_index, save_index
from rag_diffusion.retrieval.operating_point import points_reaching
from rag_diffusion.retrieval.truth import Truth
from rag_diffusion.store.vectors import VECTORS_FILE, Vectors
from rag_diffusion.types import PRECISIONS

BLOCK = 50_000
MOVED, NOISE = 0.35, 0.1  # by how much of a difference of two others; isotropic, of the length of a vector
QUERIES = 300  # to tune by, and as many others to measure by
TIMED = 100
ROUNDS = 2
DEPTH = 256  # hits that the retriever asks for


def mixed(table: Floats, near: Ints, rows: int, seed: int) -> Floats:
    """(rows, D) vectors like those of a `table`; of the same `near` and seed, images and captions belong together."""
    rng = np.random.default_rng(seed)
    one, first, second = rng.integers(0, len(table), (3, rows))
    share = rng.random((rows, 1), dtype=np.float32)
    own, neighbor = table[one], table[near[one, rng.integers(0, near.shape[1], rows)]]
    return own + share * (neighbor - own) + np.float32(MOVED / 2**0.5) * (table[first] - table[second])


def make(folder: Path, rows: int, width: int, source: Path) -> None:
    """Write (rows, width) images and the queries into a `folder`, made of the vectors of a `source`."""
    real = Vectors.open(source, _rows_of(source), remedy="make data/vectors")
    image, text = np.asarray(real.image), np.asarray(real.text)
    near, narrow = Exhaustive(image).search(image, 9)[1][:, 1:], image.shape[1]
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(width, narrow)))[0].T.astype(np.float32)
    images = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.float32, shape=(rows, width))
    for start in range(0, rows, BLOCK):
        images[start : start + BLOCK] = _unit(mixed(image, near, min(BLOCK, rows - start), start + 1), turn, start + 2)
    images.flush()
    np.save(folder / "queries.npy", _unit(mixed(text, near, 2 * QUERIES, 0), turn, 1))


def take(folder: Path, rows: int, source: Path) -> None:
    """Write images of a `source` as they are into a `folder`, and as queries captions of others."""
    real = Vectors.open(source, _rows_of(source), remedy="add the data set")
    chosen = np.random.default_rng(0).permutation(len(real.image))[: rows + 2 * QUERIES]
    np.save(folder / "images.npy", np.asarray(real.image[np.sort(chosen[:rows])], dtype=np.float32))
    np.save(folder / "queries.npy", np.asarray(real.text[chosen[rows:]], dtype=np.float32))


def _unit(vectors: Floats, turn: Floats, seed: int) -> Floats:
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    if turn.shape[0] != turn.shape[1]:
        noise = np.random.default_rng(seed).standard_normal((len(vectors), turn.shape[1]), dtype=np.float32)
        vectors = vectors @ turn + NOISE / np.sqrt(turn.shape[1]) * noise
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors, dtype=np.float32)


def _rows_of(path: Path) -> int:
    with path.open("rb") as file:
        return int(json.loads(file.read(int.from_bytes(file.read(8), "little")))["image"]["shape"][0])


def opened(folder: Path) -> tuple[Floats, Truth, Truth]:
    """The images of a `folder`, mapped, and what exhaustive search finds for queries to tune by and to measure by."""
    images = np.load(folder / "images.npy", mmap_mode="r")
    queries = np.load(folder / "queries.npy")
    half = len(queries) // 2
    return images, Truth(images, queries[:half]), Truth(images, queries[half:])


def build(folder: Path, factories: list[str]) -> None:
    """Build an index by each of the `factories` and keep it in the `folder`."""
    images = np.load(folder / "images.npy", mmap_mode="r")
    for factory in factories:
        start, wall = time.process_time(), time.perf_counter()
        index = build_index(images, factory)
        seconds = time.process_time() - start
        path = folder / f"{factory}.index"
        save_index(path, index, factory, {name: values[0] for name, values in index.parameters().items()})
        (folder / f"{factory}.built").write_text(json.dumps({"seconds": seconds}))
        print(f"{factory}: {seconds:.0f} s of CPU, {time.perf_counter() - wall:.0f} s, "
              f"{path.stat().st_size / len(images):.0f} bytes a vector", flush=True)  # fmt: skip


class Whole(Exhaustive):
    """Exhaustive search as an index without parameters."""

    def parameters(self) -> dict[str, list[int]]:
        """None."""
        return {}

    def use(self, point: Any) -> None:
        """Nothing, whatever the `point`."""


def compare(folder: Path, recalls: list[float]) -> None:
    """Measure exhaustive search and every index of a `folder`, each at its fastest point for each of the `recalls`."""
    images, tuning, check = opened(folder)
    kept: list[tuple[str, float, SearchIndex | Whole, Any]] = [("exhaustive", 1.0, Whole(images), {})]
    for path in sorted(folder.glob("*.index")):
        before, start = _resident(), time.perf_counter()
        index = load_index(path, images, "build it")
        print(f"{path.stem}: opened in {time.perf_counter() - start:.2f} s, {_resident() - before:.0f} MiB", flush=True)
        for wanted in recalls:
            points = points_reaching(index, [tuning], wanted)  # type: ignore[arg-type]
            if points:
                kept.append((path.stem, wanted, index, points[0].point))  # type: ignore[arg-type]
    _measure(kept, check)


def precision(folder: Path, recalls: list[float]) -> None:
    """Exhaustive search and every index of a `folder` over the vectors in each precision, at the points of float32.

    Recall counts against float32, points are the fastest for each of the `recalls` there.
    """
    images, tuning, check = opened(folder)
    exact, kept = Vectors(images, images[:]), list[tuple[str, float, SearchIndex | Whole, Any]]()
    tables = {one: exact.kept(folder / f"{one}.safetensors", one, remedy="").image for one in PRECISIONS}
    kept += [(f"exhaustive, {one}", 1.0, Whole(table), {}) for one, table in tables.items()]
    for path in sorted(folder.glob("*.index")):
        indexes = {one: load_index(path, table, "build it") for one, table in tables.items()}
        for wanted in recalls:
            points = points_reaching(indexes["float32"], [tuning], wanted)  # type: ignore[arg-type]
            for one, index in indexes.items() if points else ():
                kept.append((f"{path.stem}, {one}", wanted, index, points[0].point))  # type: ignore[arg-type]
    _measure(kept, check)


def _measure(kept: list[tuple[str, float, SearchIndex | Whole, Any]], check: Truth) -> None:
    """Recall and speed of each index at its point, in turns."""
    for number in range(ROUNDS):
        for name, wanted, index, point in kept:
            index.use(point)
            each, deep = (_seconds(index, check.queries[:TIMED], depth) for depth in (10, DEPTH))
            found = {"round": number, "index": name, "wanted": wanted, "point": dict(point),
                     "recall": round(check.recall(index), 4), "queries_per_s": round(1 / each, 1),
                     "deep_ms": round(1000 * deep, 2)}  # fmt: skip
            print(json.dumps(found), flush=True)


def _resident() -> float:
    """MiB of this process's own memory, mapped files apart."""
    told = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(told.split("RssAnon:")[1].split()[0]) / 1024


def _seconds(index: SearchIndex | Whole, queries: Floats, depth: int) -> float:
    """CPU time of a query by itself."""
    index.search(queries[:1], depth)
    start = time.process_time()
    for row in range(len(queries)):
        index.search(queries[row : row + 1], depth)
    return (time.process_time() - start) / len(queries)


def codes(folder: Path) -> None:
    """How many of the true ten stand among the first hits of PQ codes of D / 4 bytes, plain and score-aware."""
    images, _, check = opened(folder)
    plain = faiss.IndexPQ(images.shape[1], images.shape[1] // 2, 4, faiss.METRIC_INNER_PRODUCT)
    table = np.ascontiguousarray(images)
    plain.train(table)
    plain.add(table)
    books = faiss.vector_to_array(plain.pq.centroids).reshape(plain.pq.M, plain.pq.ksub, plain.pq.dsub)
    written = faiss.vector_to_array(plain.codes).reshape(len(table), -1)
    nearest = np.stack([written & 15, written >> 4], axis=2).reshape(len(table), -1)
    for threshold in (0.0, 0.1, 0.2, 0.3):
        start = time.process_time()
        chosen = score_aware(table, books, nearest, threshold) if threshold else nearest
        seconds = time.process_time() - start
        faiss.copy_array_to_vector((chosen[:, 0::2] | chosen[:, 1::2] << 4).astype(np.uint8).ravel(), plain.codes)
        scan = faiss.IndexPQFastScan(plain)
        depths = (10, 20, 50, 100, 200)
        right = [np.minimum((_scores(scan, check, depth) >= check.least - 1e-6).sum(axis=1), 10) for depth in depths]
        shares = {depth: round(float(found.mean() / 10), 4) for depth, found in zip(depths, right, strict=True)}
        print(json.dumps({"threshold": threshold, "seconds": round(seconds, 1), "of_ten_among": shares}), flush=True)


def _scores(index: Any, truth: Truth, depth: int) -> Floats:
    return inner_products(truth.queries, truth.vectors, index.search(truth.queries, depth)[1])


def score_aware(vectors: Floats, books: Floats, codes: np.ndarray[Any, Any], threshold: float) -> np.ndarray[Any, Any]:
    """Codes under the score-aware loss, from the nearest ones on, one sub-space after the other, three times over.

    Errors along a vector count `weight` times those across it: Guo et al. 2020, theorem 3.2.
    """
    width = vectors.shape[1]
    weight = (width - 1) * threshold**2 / (1 - threshold**2)
    parts, codes = vectors.reshape(len(vectors), len(books), -1), codes.copy()
    along = 1 - sum(np.einsum("nd,nd->n", parts[:, m], books[m][codes[:, m]]) for m in range(len(books)))
    for _ in range(3):
        for m, book in enumerate(books):
            part = parts[:, m]
            shares = np.einsum("nd,nd->n", part, part)[:, None] - part @ book.T  # of the error along the vector
            now = np.take_along_axis(shares, codes[:, m : m + 1], 1)
            total = along[:, None] - now + shares
            squared = np.square(part[:, None] - book[None]).sum(axis=2)
            codes[:, m] = (squared + (weight - 1) * np.square(total)).argmin(axis=1)
            along = np.take_along_axis(total, codes[:, m : m + 1], 1)[:, 0]
    return codes


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "take", "build", "compare", "precision", "codes"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("factories", nargs="*")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--recalls", type=float, nargs="*", default=[0.95])
    parser.add_argument("--source", type=Path, default=Path("data/vectors") / VECTORS_FILE)
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.what == "make":
        make(options.folder, options.rows, options.width, options.source)
    elif options.what == "take":
        take(options.folder, options.rows, options.source)
    elif options.what == "build":
        build(options.folder, options.factories)
    elif options.what == "compare":
        compare(options.folder, options.recalls)
    elif options.what == "precision":
        precision(options.folder, options.recalls)
    else:
        codes(options.folder)


if __name__ == "__main__":
    main()
