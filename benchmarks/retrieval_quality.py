"""Which similarity and which fusion finds a validation entity, and how often?

    python benchmarks/retrieval_quality.py [--root .] [--encoder data/encoder]

Asks with captions (the pair itself and its near-duplicates left out), with sentence templates (the drawings of the
entity in the asked style left out) and with paraphrases that share no content word with any caption of the entity.
Prints a Markdown table of entity recall@1, @3, @10 over all pairs of the corpus. Uses validation entities alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from rag_diffusion.corpus.prompts import load_prompts
from rag_diffusion.layout import CORPUS, SCRATCH
from rag_diffusion.retrieval.ann import VectorIndex
from rag_diffusion.retrieval.drawings import Drawings
from rag_diffusion.retrieval.encoder import Encoder
from rag_diffusion.retrieval.fusion import FusionName
from rag_diffusion.retrieval.lexical import LexicalIndex
from rag_diffusion.retrieval.method import Method
from rag_diffusion.retrieval.retriever import Retriever
from rag_diffusion.stages.embed import embed_corpus
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.store.vectors import Vectors

PARAPHRASES = "data/paraphrases.yaml"
DEPTHS = (1, 3, 10)
DRAWS = 2000  # of the bootstrap over entities
NAMES = ("bm25", "tf_idf", "text_to_text", "text_to_image")
RAW = "raw sentence encoder"

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Questions:
    """Q texts, what each is about, and what must not come."""

    texts: Sequence[str]
    entities: Sequence[str]
    exclude: Sequence[NDArray[np.int64]]


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--root", type=Path, default=Path())
    arguments.add_argument("--encoder", type=Path)
    options = arguments.parse_args()
    root: Path = options.root
    corpus = Corpus.open(root / CORPUS)
    folder = options.encoder or root / "data/encoder"
    encoder = Encoder(folder, scratch=root / SCRATCH / "trunk")
    asking = Encoder(folder)  # keeps no features of questions
    kinds = questions(root, corpus)
    aligned = embed_corpus(encoder, corpus)
    texts = {name: asking.texts(one.texts) for name, one in kinds.items()}
    captions = corpus.table["caption"].tolist()
    trunks = trunk(encoder, captions)
    blind = np.zeros_like(trunks)  # the raw sentence encoder knows nothing of images
    raw = Vectors(blind, trunks)
    raw_texts = {name: trunk(asking, list(one.texts)) for name, one in kinds.items()}
    print("| " + " | ".join(["similarity", *(f"{name} @1 | @3 | @10" for name in kinds)]) + " |")
    print("|---|" + "---|---|---|" * len(kinds))
    index = LexicalIndex.build(captions)
    lexical = {"bm25": index, "tf_idf": LexicalIndex(index.counts, "tf_idf")}
    for label, of_raw, method in methods():
        retriever = make(corpus, raw if of_raw else aligned, lexical, method)
        cells = [row(retriever, corpus, kinds[name], (raw_texts if of_raw else texts)[name]) for name in kinds]
        print(f"| {label} | " + " | ".join(cells) + " |", flush=True)


def methods() -> list[tuple[str, bool, Method]]:
    """Every similarity alone, then every fusion: label, whether texts are compared by the raw encoder, method."""
    rows = [(f"{name} alone", False, Method(weights=_only({name: 1.0}))) for name in NAMES]
    rows.append((f"{RAW} alone", True, Method(weights=_only({"text_to_text": 1.0}))))
    mixes: list[tuple[str, dict[str, float]]] = [
        ("bm25 + text_to_text", {"bm25": 1, "text_to_text": 1}),
        ("bm25 + 2 text_to_text", {"bm25": 1, "text_to_text": 2}),
        ("bm25 + 3 text_to_text", {"bm25": 1, "text_to_text": 3}),
        ("tf_idf + text_to_text", {"tf_idf": 1, "text_to_text": 1}),
        ("tf_idf + 3 text_to_text", {"tf_idf": 1, "text_to_text": 3}),
        ("tf_idf + 6 text_to_text", {"tf_idf": 1, "text_to_text": 6}),
        ("bm25 + tf_idf + 2 text_to_text", {"bm25": 1, "tf_idf": 1, "text_to_text": 2}),
        ("2 bm25 + 2 text_to_text + text_to_image", {"bm25": 2, "text_to_text": 2, "text_to_image": 1}),
    ]
    fusions: tuple[FusionName, ...] = ("sum", "product", "reciprocal_rank")
    for of_raw in (False, True):
        for label, weights in mixes:
            if of_raw and "text_to_image" in weights:
                continue
            for fusion in fusions:
                name = label.replace("text_to_text", RAW) if of_raw else label
                rows.append((f"{name}, {fusion}", of_raw, Method(weights=_only(weights), fusion=fusion)))
    return rows


def questions(root: Path, corpus: Corpus) -> dict[str, Questions]:
    """The three kinds of questions about validation entities."""
    drawings = Drawings(corpus)
    rows = np.flatnonzero((corpus.table["split"] == "validation").to_numpy())
    prompts = [one for one in load_prompts(root, "validation", corpus) if one.kind == "sentence"]
    entries = yaml.safe_load((root / PARAPHRASES).read_text(encoding="utf-8"))
    pairs = [(entity, text) for entity, entry in entries.items() for text in entry["texts"]]
    nothing = np.empty(0, dtype=np.int64)
    table = corpus.table.iloc[rows]
    return {
        f"captions ({len(rows)})": Questions(
            texts=table["caption"].tolist(),
            entities=table["entity"].tolist(),
            exclude=[drawings.of_pair(int(number)) for number in rows],
        ),
        f"sentences ({len(prompts)})": Questions(
            texts=[one.text for one in prompts],
            entities=[one.entity for one in prompts],
            exclude=[drawings.of_prompt(one) for one in prompts],
        ),
        f"paraphrases ({len(pairs)})": Questions(
            texts=[text for _, text in pairs],
            entities=[entity for entity, _ in pairs],
            exclude=[nothing] * len(pairs),
        ),
    }


def trunk(encoder: Encoder, texts: Sequence[str]) -> Floats:
    """(N, 384) unit vectors of the sentence encoder below the text head."""
    features = encoder.text_features(texts).numpy()
    found: Floats = features / np.linalg.norm(features, axis=1, keepdims=True)
    return found


def make(corpus: Corpus, vectors: Vectors, lexical: dict[str, LexicalIndex], method: Method) -> Retriever:
    """A retriever with exact search over the similarities that have a weight."""
    indexes = {
        "text_to_text": VectorIndex.build(vectors.text, "Flat"),
        "text_to_image": VectorIndex.build(vectors.image, "Flat"),
    }
    return Retriever(corpus, vectors, lexical, indexes, weights=method, embed=lambda texts: np.empty((0, 0)))


def row(retriever: Retriever, corpus: Corpus, asked: Questions, vectors: Floats) -> str:
    """Recall at each depth; at the first with its half interval over entities."""
    entity = corpus.table["entity"].to_numpy()
    found = retriever.rank(asked.texts, depth=max(DEPTHS), exclude=asked.exclude, query_vectors=vectors)
    right = np.stack(
        [entity[ranking.rows[: max(DEPTHS)]] == name for ranking, name in zip(found, asked.entities, strict=True)]
    )
    hit = {depth: right[:, :depth].any(axis=1) for depth in DEPTHS}
    shown = [f"{hit[depth].mean():.3f}".lstrip("0") for depth in DEPTHS]
    shown[0] += f" ±{_half_interval(hit[1], asked.entities):.3f}".replace("0.", ".")
    return " | ".join(shown)


def _half_interval(hit: NDArray[np.bool_], entities: Sequence[str]) -> float:
    """Half of the 95 % interval of the mean, bootstrapped over entities."""
    names, own = np.unique(entities, return_inverse=True)
    sums, counts = np.bincount(own, weights=hit), np.bincount(own)
    draws = np.random.default_rng(0).integers(len(names), size=(DRAWS, len(names)))
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(high - low) / 2


def _only(weights: dict[str, float]) -> dict[str, float]:
    return dict.fromkeys(NAMES, 0.0) | weights


if __name__ == "__main__":
    main()
