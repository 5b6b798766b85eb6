"""Neighbors of every training pair and of every prompt; never the target or its duplicate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rag_diffusion.arrays import Ints, Mask
from rag_diffusion.progress import progress
from rag_diffusion.retrieval.drawings import Drawings
from rag_diffusion.retrieval.neighbor_table import PromptNeighbors
from rag_diffusion.retrieval.retriever import Retriever
from rag_diffusion.retrieval.style import NO_STYLE, search_style, style_phrase
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.types import Hits, Prompt


def pair_neighbors(
    retriever: Retriever, corpus: Corpus, rows: Ints, candidates: Mask, *, top_k: int
) -> dict[str, Hits]:
    """Neighbors of pairs by their own captions, best first.

    Args:
        retriever: over the whole corpus, alone.
        corpus: the same.
        rows: the pairs to find neighbors for.
        candidates: (N,) rows that may be neighbors; a pair and its near-duplicates never are its
            own.
        top_k: neighbors kept.

    Returns:
        Pair id -> its hits, never the pair itself nor a near-duplicate.
    """
    pair_ids = corpus.ids(rows)
    drawings = Drawings(corpus)
    rankings = retriever.rank(
        corpus.cells("caption", rows),
        depth=top_k,
        exclude=[drawings.of_pair(int(row)) for row in rows],
        within=candidates,
        query_vectors=retriever.vectors.text[rows],
    )
    counted = progress(zip(pair_ids, rankings, strict=True), total=len(rows), desc="neighbors", unit="pair")
    return {pair_id: retriever.hits(ranking, top_k) for pair_id, ranking in counted}


def prompt_neighbors(
    retriever: Retriever,
    corpus: Corpus,
    prompts: Sequence[Prompt],
    *,
    num_neighbors: int,
    seed: int,
    num_style: int = 0,
    within: Mask | None = None,
) -> dict[str, PromptNeighbors]:
    """Retrieved, oracle, random and style neighbors of prompts, over all pairs but the excluded.

    Args:
        retriever: over the whole corpus, alone.
        corpus: the same.
        prompts: with the target entity and style.
        num_neighbors: of each kind; fewer come where the corpus has fewer.
        seed: of the random ones, together with the prompt's own seed.
        num_style: style neighbors of each.
        within: (N,) rows that may be retrieved; None is all. Random ones are of all.
    """
    drawings = Drawings(corpus)
    excluded = [drawings.of_prompt(prompt) for prompt in prompts]
    texts = [prompt.text for prompt in prompts]
    rankings = retriever.rank(texts, depth=len(corpus), exclude=excluded, within=within)
    entries: dict[str, PromptNeighbors] = {}
    counted = progress(
        zip(prompts, excluded, rankings, strict=True),
        total=len(prompts),
        desc="prompts",
        unit="prompt",
    )
    for prompt, rows, ranking in counted:
        hits = retriever.hits(ranking, num_neighbors, prompt.text)
        oracle = ranking.rows[drawings.entity[ranking.rows] == prompt.entity][:num_neighbors]
        entries[prompt.prompt_id] = PromptNeighbors(
            exclude=_ids(corpus, rows),
            retrieved=hits.pair_ids,
            scores=hits.scores,
            parts=hits.parts,
            raw=hits.raw,
            oracle=_ids(corpus, oracle),
            random=_ids(corpus, _random_rows(drawings, prompt, rows, num_neighbors, seed)),
            style=_style_ids(retriever, drawings, prompt, ranking.rows, rows, num_style),
        )
    return entries


def _random_rows(drawings: Drawings, prompt: Prompt, excluded: Ints, count: int, seed: int) -> Ints:
    may = drawings.unrelated(prompt)
    may[excluded] = False
    rows = np.flatnonzero(may)
    return np.random.default_rng([seed, prompt.seed]).choice(rows, size=min(count, len(rows)), replace=False)


def _style_ids(
    retriever: Retriever, drawings: Drawings, prompt: Prompt, ranked: Ints, excluded: Ints, count: int
) -> tuple[str, ...]:
    """The first of the ranked rows that show other families in the prompt's style.

    In a corpus without styles those that are akin to what the prompt says of it, if it says anything.
    """
    if prompt.style != NO_STYLE:
        may = (drawings.style[ranked] == prompt.style) & (drawings.family[ranked] != prompt.family)
        return tuple(retriever.corpus.ids(ranked[may][:count]))
    if not count or style_phrase(prompt.text) is None:
        return ()
    own = np.union1d(np.flatnonzero(drawings.family == prompt.family), excluded)
    return search_style(retriever, prompt.text, top_k=count, exclude=retriever.corpus.ids(own)).pair_ids


def _ids(corpus: Corpus, rows: Ints) -> tuple[str, ...]:
    return tuple(corpus.ids(rows))
