"""Why a hit is one: what each similarity gave to it, and which of the query's words its caption has.

Shapes: k hits of one query.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rag_diffusion.retrieval.retriever import Retriever
from rag_diffusion.retrieval.tokens import readable, tokenize
from rag_diffusion.retrieval.weakness import weak_match
from rag_diffusion.types import Hits


@dataclass(frozen=True, kw_only=True)
class Explained:
    """One hit.

    Attributes:
        pair_id, caption, licence, attribution: of the pair.
        score: fused.
        parts: what each similarity gave to it.
        words: the query's words that its caption has, with their idf weight.
        raw: the similarities themselves.
        probability: calibrated, that it shows what was asked for; None where nothing is calibrated.
    """

    pair_id: str
    caption: str
    licence: str
    attribution: str
    score: float
    parts: dict[str, float]
    words: dict[str, float]
    raw: dict[str, float] = field(default_factory=dict)
    probability: float | None = None


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One query.

    Attributes:
        query: as it was searched.
        words: its words that the lexical index knows, with their idf weight.
        unknown: its words that no caption has.
        fusion: how the parts become the score: `sum`, `product` or `reciprocal_rank`.
        hits: best first.
        weak: a sentence where none of them is much like the query; else empty.
    """

    query: str
    words: dict[str, float]
    unknown: tuple[str, ...]
    fusion: str
    hits: tuple[Explained, ...]
    weak: str = ""


def explain(retriever: Retriever, query: str, hits: Hits) -> Explanation:
    """Why hits are hits.

    Args:
        retriever: that found them.
        query: the text.
        hits: of it.
    """
    words = retriever.lexical["bm25"].explain(readable(query))
    pairs = retriever.corpus
    rows = pairs.rows(hits.pair_ids)
    columns = zip(*(pairs.cells(name, rows) for name in ("caption", "licence", "attribution")), strict=True)
    explained = []
    for rank, (pair_id, score, (caption, licence, attribution)) in enumerate(
        zip(hits.pair_ids, hits.scores, columns, strict=True)
    ):
        own = set(tokenize(caption))
        explained.append(
            Explained(
                pair_id=pair_id,
                caption=caption,
                licence=licence,
                attribution=attribution,
                score=score,
                parts={name: values[rank] + 0.0 for name, values in hits.parts.items()},
                words={word: idf for word, idf in words.items() if word in own},
                raw={name: values[rank] + 0.0 for name, values in hits.raw.items()},
                probability=hits.probabilities[rank] if rank < len(hits.probabilities) else None,
            )
        )
    return Explanation(
        query=readable(query),
        words=words,
        unknown=tuple(sorted(set(tokenize(readable(query))) - set(words))),
        fusion=retriever.method.fusion,
        hits=tuple(explained),
        weak=weak_match(retriever, query, hits),
    )
