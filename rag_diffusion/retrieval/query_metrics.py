"""What is measured of queries: how often they find the entity, and how long each part takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from rag_diffusion.retrieval.neighbor_table import PromptNeighbors
from rag_diffusion.retrieval.query import Query
from rag_diffusion.retrieval.retriever import Retriever
from rag_diffusion.spans import Span, recording
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.types import Hits, Prompt


def prompt_recall(
    corpus: Corpus, prompts: Iterable[Prompt], neighbors: Mapping[str, PromptNeighbors]
) -> dict[str, float]:
    """Share of prompts with their entity among the first 1 and 3 retrieved, by kind of prompt.

    Args:
        corpus: where the neighbors are.
        prompts: that are counted.
        neighbors: of each, by prompt id.
    """
    entity = dict(zip(corpus.column("pair_id"), corpus.column("entity"), strict=True))
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


def same_entity_share(corpus: Corpus, neighbors: Mapping[str, Hits]) -> float:
    """Share of the `neighbors` of pairs that show the entity of their pair in `corpus`; 0 where there are none."""
    entity = dict(zip(corpus.column("pair_id"), corpus.column("entity"), strict=True))
    same = [entity[hit] == entity[pair_id] for pair_id, hits in neighbors.items() for hit in hits.pair_ids]
    return float(np.mean(same)) if same else 0.0  # a threshold can leave no neighbor at all
