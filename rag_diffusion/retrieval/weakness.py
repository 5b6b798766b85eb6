"""Matches that are no better than chance, told in a plain sentence.

A fused score is relative to the other candidates of its query: the best hit has a high one however little it has to do
with the words. The cosines behind it are not, so they are compared with those of pairs put together at random.

Shapes: N pairs, S of them sampled, D width of the dual encoder's space.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from rag_diffusion.types import Hits

if TYPE_CHECKING:
    from rag_diffusion.retrieval.retriever import Retriever

COSINES = ("text_to_text", "text_to_image")
SAMPLED = 256  # pairs, every one with every other
LEAST = 100  # pairs; fewer are no sample, least of all those that a remote has sent for this very query
EVEN = 0.5  # probability below which a hit is more likely wrong
REACHED = 0.99  # share of the random pairs that stay below
_KNOWN: WeakKeyDictionary[Retriever, dict[str, float]] = WeakKeyDictionary()


def reach(retriever: Retriever) -> dict[str, float]:
    """The cosine that one in a hundred random pairs of `retriever` reaches, by similarity: a caption with another pair.

    Pairs of one entity are left out, since they are no random ones; empty where the corpus has too few others.
    """
    if retriever not in _KNOWN:
        _KNOWN[retriever] = _reach(retriever)
    return _KNOWN[retriever]


def weak_match(retriever: Retriever, query: str, hits: Hits) -> str:
    """A sentence where nothing that was asked for was found; empty where it was, or where there is no pair at all.

    A calibrated hit is weak where it is more likely wrong than right. Else no cosine of any hit is above what random
    pairs reach: only the similarities that have a weight are asked, and captions alone where none has.

    Args:
        retriever: that found the hits.
        query: what was asked.
        hits: of the query.
    """
    if hits.trouble:
        return hits.trouble
    if hits.probabilities:
        return _improbable(query, max(hits.probabilities))
    limits = reach(retriever)
    weights = retriever.method.weights
    names = [name for name in COSINES if weights.get(name, 0) > 0] or [COSINES[0]]
    best = {name: max(hits.raw[name]) for name in names if hits.raw.get(name) and name in limits}
    if not best or any(value >= limits[name] for name, value in best.items()):
        return ""
    cosines = ", ".join(
        f"{name.replace('_', ' ')} cosine {value:.2f}, random pairs reach {limits[name]:.2f}"
        for name, value in best.items()
    )
    return f"nothing here is much like {query!r}: the best match is no better than one by chance ({cosines})"


def _improbable(query: str, probability: float) -> str:
    if probability >= EVEN:
        return ""
    return f"nothing here is likely to show {query!r}: the best match does with probability {probability:.2f}"


def _reach(retriever: Retriever) -> dict[str, float]:
    total = len(retriever.corpus)
    if total < LEAST:
        return {}
    rows = np.random.default_rng(0).permutation(total)[:SAMPLED]
    entity = np.array(retriever.corpus.cells("entity", rows))
    apart = entity[:, None] != entity[None]
    if apart.sum() < SAMPLED:
        return {}
    texts = np.asarray(retriever.vectors.text[rows], dtype=np.float64)
    bases = {"text_to_text": texts, "text_to_image": np.asarray(retriever.vectors.image[rows], dtype=np.float64)}
    return {name: float(np.quantile((texts @ base.T)[apart], REACHED)) for name, base in bases.items()}
