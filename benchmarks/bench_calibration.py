"""What a calibrated search costs more than one that is not, at 100,000 pairs.

    python benchmarks/bench_calibration.py [--pairs 100000] [--queries 200]

Made-up captions of three words from a vocabulary of 20,000, random unit vectors of width 256, vectors of the queries
given (the encoder has no part in it). The two searches take turns, query by query, so that both see the same machine.
Prints medians in milliseconds, by the clock and of the thread's own computing, which busy cores do not lengthen.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from rag_diffusion.retrieval.ann import VectorIndex
from rag_diffusion.retrieval.calibration import Calibration
from rag_diffusion.retrieval.evidence import FEATURES
from rag_diffusion.retrieval.lexical import LexicalIndex
from rag_diffusion.retrieval.method import Method
from rag_diffusion.retrieval.query import Query
from rag_diffusion.retrieval.retriever import Retriever
from rag_diffusion.retrieval.selection import Selection, Thresholds
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.store.vectors import Vectors

WIDTH, VOCABULARY = 256, 20_000
WEIGHTS = {"bm25": 0.5, "text_to_text": 0.5, "text_to_image": 0.0}


def main() -> None:
    """Print the medians."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--pairs", type=int, default=100_000)
    arguments.add_argument("--queries", type=int, default=200)
    given = arguments.parse_args()
    plain, calibrated = retrievers(given.pairs)
    rng = np.random.default_rng(1)
    rows = rng.choice(given.pairs, given.queries)
    captions = plain.corpus.cells("caption", rows)
    times, spent = ({"plain": list[float](), "calibrated": list[float]()} for _ in range(2))
    for row, caption in zip(rows, captions, strict=True):
        query = Query([f"a small {caption} at night"], top_k=3, vectors=np.asarray(plain.vectors.text[row : row + 1]))
        for name, retriever in (("plain", plain), ("calibrated", calibrated)):
            start, own = time.perf_counter(), time.thread_time()
            retriever.search(query)
            times[name].append(1000 * (time.perf_counter() - start))
            spent[name].append(1000 * (time.thread_time() - own))
    medians = {name: float(np.median(values[5:])) for name, values in times.items()}
    apart, busy = (float(np.median(np.subtract(of["calibrated"], of["plain"])[5:])) for of in (times, spent))
    print(f"{given.pairs} pairs, {given.queries} queries: plain {medians['plain']:.2f} ms, calibrated "
          f"{medians['calibrated']:.2f} ms, median difference {apart:.2f} ms, own computing {busy:.2f} ms")  # fmt: skip


def retrievers(count: int) -> tuple[Retriever, Retriever]:
    """The same pairs without and with a calibration."""
    rng = np.random.default_rng(0)
    words = [f"word{number}" for number in range(VOCABULARY)]
    captions = [" ".join(words[number] for number in row) for row in rng.zipf(1.3, (count, 3)) % VOCABULARY]
    columns = dict.fromkeys(("source", "category", "style", "title", "licence", "attribution"), ["x"] * count)
    ids = [f"made/{number:06d}" for number in range(count)]
    table = pa.table({
        "pair_id": ids, "entity": ids, "family": ids, "duplicate_group": ids, "caption": captions,
        "split": ["train"] * count, **columns,
    })  # fmt: skip
    corpus = Corpus.in_memory(Path("made"), table, np.zeros((count, 1, 1, 3), dtype=np.uint8), "made")
    corpus.manifest["style_words"] = {}
    vectors = Vectors(*(unit(rng.normal(size=(count, WIDTH))) for _ in range(2)))
    lexical = LexicalIndex.build(captions)
    indexes = {name: VectorIndex.build(base, "Flat")
               for name, base in (("text_to_text", vectors.text), ("text_to_image", vectors.image))}  # fmt: skip
    selection = Selection(kind="both", thresholds=Thresholds(probability=0.5))
    found = [
        Retriever(
            corpus, vectors, lexical, indexes, weights=method, embed=lambda texts: vectors.text[: len(texts)],
            calibration=calibration,
        )
        for method, calibration in (
            (Method(weights=WEIGHTS), None),
            (Method(weights=WEIGHTS, selection=selection), Calibration(weights=(1.0,) * (len(FEATURES) + 1))),
        )
    ]  # fmt: skip
    return found[0], found[1]


def unit(vectors: np.ndarray) -> np.ndarray:
    """(N, D) of length one."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


if __name__ == "__main__":
    main()
