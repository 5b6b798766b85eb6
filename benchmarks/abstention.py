"""Does retrieval say "I have nothing" where it has nothing, and does it keep what it has?

    python benchmarks/abstention.py [--root .] [--split validation | test] [--probability .7] [--calibration FILE]

Asks with the prompts of a split: once as they are (the drawings of the entity in the asked style left out), and once
with the whole family of the entity left out, as one asks for a name that is not there; `QUERIES` of those at most.
Prints recall of the entity among the first three neighbors with and without thresholds, how many queries get none
at all, and the reliability of the probabilities of the first hits as a Markdown table.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rag_diffusion.config import load_config
from rag_diffusion.corpus.prompts import load_prompts
from rag_diffusion.layout import CORPUS
from rag_diffusion.retrieval.assemble import pipeline_retriever
from rag_diffusion.retrieval.calibration import Calibration, calibration_error, reliability
from rag_diffusion.retrieval.drawings import Drawings
from rag_diffusion.retrieval.method import Method
from rag_diffusion.retrieval.query import Query
from rag_diffusion.retrieval.retriever import Retriever
from rag_diffusion.retrieval.selection import Selection, Thresholds
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.types import Hits, Prompt

QUERIES = 200  # whose entity is taken out
TOP_K = 3
UNKNOWN = ("zzzz qqqq", "Chortai running on a field", "a narwhal in Noto style", "blorptang emoji, Twemoji")


def main() -> None:
    """Print what was measured."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--root", type=Path, default=Path())
    arguments.add_argument("--split", choices=["validation", "test"], default="validation")
    arguments.add_argument("--probability", type=float, nargs="+", default=[0.5, 0.6, 0.7, 0.8, 0.9])
    arguments.add_argument("--calibration", type=Path, help="another file than that of the stage index")
    given = arguments.parse_args()
    root: Path = given.root
    retriever = pipeline_retriever(root, load_config("params.yaml"))
    if given.calibration:
        retriever.calibration = Calibration.load(given.calibration, encoder_hash="")
    corpus = Corpus.open(root / CORPUS)
    prompts = load_prompts(root, "all" if given.split == "test" else "validation", corpus)
    drawings = Drawings(corpus)
    vectors = retriever.embed([prompt.text for prompt in prompts])
    present = [drawings.of_prompt(prompt) for prompt in prompts]
    absent = [np.flatnonzero(drawings.family == prompt.family) for prompt in prompts]
    spread = np.linspace(0, len(prompts) - 1, min(QUERIES, len(prompts))).astype(np.int64)
    print(f"{len(prompts)} {given.split} prompts; {len(spread)} of them with their family left out\n")
    print("| probability at least | recall@3 | its neighbors | right among them | no neighbor, left out |")
    print("|---|---|---|---|---|")
    judged: list[tuple[float, bool]] = []
    for least in (0.0, *given.probability):
        thresholds = Thresholds(probability=least)
        own = with_thresholds(retriever, thresholds)
        hits = search(own, prompts, vectors, present)
        right = [[drawings.entity[row] == prompt.entity for row in corpus.rows(found.pair_ids)]
                 for prompt, found in zip(prompts, hits, strict=True)]  # fmt: skip
        some = [prompts[row] for row in spread]
        left = search(own, some, vectors[spread], [absent[row] for row in spread])
        if not least:
            judged = [pair for found, truth in zip(hits, right, strict=True)
                      for pair in zip(found.probabilities, truth, strict=True)]  # fmt: skip
            judged += [(value, False) for found in left for value in found.probabilities]
        count, good = sum(map(len, right)), sum(map(sum, right))
        none = np.mean([not found.pair_ids for found in left])
        print(f"| {least or 'nothing'} | {np.mean([any(truth) for truth in right]):.3f} | {count / len(prompts):.2f} "
              f"| {good / max(count, 1):.3f} | {none:.3f} |")  # fmt: skip
    bins = reliability(np.asarray([value for value, _ in judged]), np.asarray([truth for _, truth in judged], float))
    print(f"\nCalibration error on these queries: {calibration_error(bins):.3f}\n")
    print("| probability | hits | mean | right |\n|---|---|---|---|")
    for entry in bins:
        print(f"| {entry.low:.1f} to {entry.high:.1f} | {entry.count} | {entry.probability:.3f} | {entry.right:.3f} |")
    print()
    own = with_thresholds(retriever, Thresholds(probability=given.probability[-1]))
    for text in UNKNOWN:
        (found,) = own.search(Query([text], top_k=TOP_K)).hits
        print(f"{text!r}: {found.trouble or found.pair_ids}")


def with_thresholds(retriever: Retriever, thresholds: Thresholds) -> Retriever:
    """The same retriever with other thresholds; the first of those that pass become neighbors."""
    other = retriever.weighted(retriever.method.weights)
    other.method = replace(other.method, selection=Selection(kind="both", thresholds=thresholds))
    assert isinstance(other.method, Method)
    return other


def search(
    retriever: Retriever, prompts: Sequence[Prompt], vectors: np.ndarray, left_out: Sequence[np.ndarray]
) -> list[Hits]:
    """Neighbors of prompts."""
    texts = [prompt.text for prompt in prompts]
    rankings = retriever.rank(texts, depth=TOP_K, exclude=left_out, query_vectors=vectors)
    return [retriever.hits(ranking, TOP_K, text) for ranking, text in zip(rankings, texts, strict=True)]


if __name__ == "__main__":
    main()
