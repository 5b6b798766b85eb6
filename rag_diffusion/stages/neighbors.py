"""Stage `neighbors`: neighbors of every training pair and of every prompt, checked for leaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rag_diffusion.corpus.prompts import load_prompts
from rag_diffusion.files import atomic_dir
from rag_diffusion.layout import CORPUS, NEIGHBORS
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.retrieval.assemble import pipeline_retriever
from rag_diffusion.retrieval.leaks import check_exclusions
from rag_diffusion.retrieval.neighbor_table import NeighborTable, write_neighbors
from rag_diffusion.retrieval.neighbors import pair_neighbors, prompt_neighbors
from rag_diffusion.retrieval.query_metrics import latencies, prompt_recall, same_entity_share, timed_queries
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.store.filters import Filter
from rag_diffusion.types import Prompt

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
    within = retriever.corpus.mask(Filter.from_config(config.where))
    every = np.ones(len(corpus), dtype=bool) if within is None else within
    by_prompt = prompt_neighbors(
        retriever,
        corpus,
        prompts,
        num_neighbors=config.content,
        num_style=config.style,
        seed=ctx.config.seed,
        within=within,
    )
    top_k = config.training_candidates
    by_train = pair_neighbors(retriever, corpus, np.flatnonzero(train), train & every, top_k=top_k)
    candidates = (train | validation) & every
    by_validation = pair_neighbors(retriever, corpus, np.flatnonzero(validation), candidates, top_k=top_k)
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
            "train_same_entity": same_entity_share(corpus, by_train),
            "train_pairs": len(by_train),
            "prompts": len(prompts),
        }
        | latencies(queries)
    )
    ctx.tracker.log_traces(queries)


def _all_prompts(root: Path, corpus: Corpus) -> list[Prompt]:
    """Test and validation prompts; of a user's own corpus only those splits that it has."""
    held_out = set(corpus.table["split"])
    wanted = [("validation", "validation"), ("all", "test")]
    return [prompt for which, split in wanted if split in held_out for prompt in load_prompts(root, which, corpus)]
