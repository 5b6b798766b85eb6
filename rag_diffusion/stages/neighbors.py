"""Stage `neighbors`: neighbors of every training pair and of every prompt, checked for leaks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from rag_diffusion.corpus.prompts import load_prompts
from rag_diffusion.files import atomic_dir
from rag_diffusion.layout import CORPUS, NEIGHBORS
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.retrieval.assemble import pipeline_retriever
from rag_diffusion.retrieval.leaks import check_exclusions
from rag_diffusion.retrieval.neighbor_table import NeighborTable, PromptNeighbors, write_neighbors
from rag_diffusion.retrieval.neighbors import pair_neighbors, prompt_neighbors
from rag_diffusion.retrieval.query import Query
from rag_diffusion.retrieval.retriever import Retriever
from rag_diffusion.spans import Span, recording
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.types import Hits, Prompt

_TRACED = 40  # queries that are timed apart and kept as traces


def run(ctx: StageContext) -> None:
    """Write data/neighbors.

    Raises:
        LineageError: an artifact belongs to another corpus, or a neighbor list leaks its target.
    """
    config = ctx.config.retrieval
    corpus = Corpus.open(ctx.root / CORPUS)
    ctx.tracker.log_dataset("corpus", corpus.hash, CORPUS)
    retriever = pipeline_retriever(ctx.root, ctx.config)
    split = corpus.table["split"].to_numpy()
    train, validation = split == "train", split == "validation"
    prompts = _all_prompts(ctx.root, corpus)
    by_prompt = prompt_neighbors(
        retriever, corpus, prompts, num_neighbors=config.content, num_style=config.style, seed=ctx.config.seed
    )
    top_k = config.training_candidates
    by_train = pair_neighbors(retriever, corpus, np.flatnonzero(train), train, top_k=top_k)
    by_validation = pair_neighbors(retriever, corpus, np.flatnonzero(validation), train | validation, top_k=top_k)
    queries = timed_queries(retriever, prompts[:: max(1, len(prompts) // _TRACED)][:_TRACED], config.content)
    with atomic_dir(ctx.root / NEIGHBORS) as folder:
        write_neighbors(
            folder,
            corpus_hash=corpus.hash,
            training=by_train,
            validation=by_validation,
            prompts=by_prompt,
        )
        check_exclusions(NeighborTable.open(folder, corpus), corpus, prompts)
    ctx.tracker.log_metrics(
        prompt_recall(corpus, [prompt for prompt in prompts if prompt.split == "validation"], by_prompt)
        | {
            "train_same_entity": _same_entity(corpus, by_train),
            "train_pairs": len(by_train),
            "prompts": len(prompts),
        }
        | latencies(queries)
    )
    ctx.tracker.log_traces(queries)


def prompt_recall(
    corpus: Corpus, prompts: Iterable[Prompt], neighbors: Mapping[str, PromptNeighbors]
) -> dict[str, float]:
    """Share of prompts with their entity among the first 1 and 3 retrieved, by kind of prompt.

    Args:
        corpus: where the neighbors are.
        prompts: that are counted.
        neighbors: of each, by prompt id.
    """
    entity = dict(zip(corpus.table["pair_id"], corpus.table["entity"], strict=True))
    ranks: dict[str, list[Sequence[bool]]] = {}
    for prompt in prompts:
        right = [entity[pair_id] == prompt.entity for pair_id in neighbors[prompt.prompt_id].retrieved]
        for kind in ("all", prompt.kind):
            ranks.setdefault(kind, []).append(right)
    return {
        f"validation_{kind}_entity_recall_{depth}": float(np.mean([any(right[:depth]) for right in rights]))
        for kind, rights in ranks.items()
        for depth in (1, 3)
    }


def timed_queries(retriever: Retriever, prompts: Sequence[Prompt], top_k: int) -> list[Span]:
    """Ask each prompt by itself and by its text alone, as a user does.

    Args:
        retriever: is asked.
        prompts: whose texts.
        top_k: hits of each.

    Returns:
        A span for each with its hits, and how long each part took.
    """
    queries = []
    for prompt in prompts:
        with recording("query", prompt=prompt.text, top_k=top_k) as root:
            hits = retriever.search(Query([prompt.text], top_k=top_k)).hits[0]
            root.kind = "RETRIEVER"
            root.outputs = [
                {"page_content": retriever.corpus.pair(name).caption, "metadata": {"pair_id": name, "score": score}}
                for name, score in zip(hits.pair_ids, hits.scores, strict=True)
            ]
        queries.append(root)
    return queries


def latencies(queries: Sequence[Span]) -> dict[str, float]:
    """Median and 99th percentile of the milliseconds that each of `queries` took, and each of its parts.

    The first query is left out: it loads the encoder.
    """
    times: dict[str, list[float]] = {}
    for root in queries[1:]:
        parts = {"query": root.seconds}
        for part in root.children:
            parts[part.name] = parts.get(part.name, 0.0) + part.seconds
        for name, seconds in parts.items():
            times.setdefault(name.replace(" ", "_"), []).append(1000 * seconds)
    return {
        f"{name}_ms_p{percent}": float(np.percentile(values, percent))
        for name, values in times.items()
        for percent in (50, 99)
    }


def _same_entity(corpus: Corpus, neighbors: Mapping[str, Hits]) -> float:
    """Share of neighbors that show the entity of their pair."""
    entity = dict(zip(corpus.table["pair_id"], corpus.table["entity"], strict=True))
    same = [entity[hit] == entity[pair_id] for pair_id, hits in neighbors.items() for hit in hits.pair_ids]
    return float(np.mean(same)) if same else 0.0  # a threshold can leave no neighbor at all


def _all_prompts(root: Path, corpus: Corpus) -> list[Prompt]:
    """Test and validation prompts; of a user's own corpus only those splits that it has."""
    held_out = set(corpus.table["split"])
    wanted = [("validation", "validation"), ("all", "test")]
    return [prompt for which, split in wanted if split in held_out for prompt in load_prompts(root, which, corpus)]
