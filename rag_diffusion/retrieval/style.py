"""Style neighbors: other things in the manner asked for.

The manner is a style that the pairs are labelled with, or where they have no labels what a text says of it ("in the
style of X", "in X style", "the way X paints"), or a few example pictures.

Shapes: D width of the encoder's space, m example pictures.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from rag_diffusion.arrays import Floats, Ints
from rag_diffusion.retrieval.ranking import ImageQuery
from rag_diffusion.retrieval.tokens import readable
from rag_diffusion.store.pairs import Pairs
from rag_diffusion.types import Hits

if TYPE_CHECKING:
    from rag_diffusion.retrieval.retriever import Retriever

NO_STYLE = "default"  # style of pairs that have none
_MANNER = r"(?:style|manner|look|artwork)"
_NAME = r"(?:the |an? )?(?P<name>[^,.;:?!]+?)"
_PHRASES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b{_MANNER} of {_NAME}\s*(?:$|[,.;:?!])",
        rf"\b(?:in|using|with) {_NAME}[ -]{_MANNER}\b",
        rf"(?:^|[,;]\s*){_NAME}[ -]{_MANNER}\b",
        rf"\b(?:as|the way) {_NAME} (?:paints|draws|would|did|does)\b",
    )
)
_CONNECTING = re.compile(r"[\s,;]*(?:\b(?:in|with|using|as)(?:\s+(?:the|an?))?)?\s*$", re.IGNORECASE)
_BELONGING = re.compile(
    rf"^(?:[ -]{_MANNER}\b|\s+(?:paints|draws|would|did|does)\b(?:\s+(?:do|draw|paint))?(?:\s+(?:it|them))?\b)",
    re.IGNORECASE,
)


def without_manner(text: str, names: Collection[str]) -> str:
    """`text` without what it says of the manner, where that is one of `names` in small letters.

    Examples:
        >>> without_manner("a fox in the style of My Icons, at night", ["my icons"])
        'a fox, at night'
        >>> without_manner("a fox in the style of Hokusai", ["my icons"])
        'a fox in the style of Hokusai'
    """
    for pattern in _PHRASES:
        for match in pattern.finditer(text):
            if match["name"].strip().lower() in names:
                before, after = _CONNECTING.sub("", text[: match.start()], count=1), text[match.end("name") :]
                return f"{before}{_BELONGING.sub('', after)}".strip(" ,;") or text
    return text


def untrained_styles(pairs: Pairs) -> frozenset[str]:
    """Names, in small letters, of styles of `pairs` that none of the train split has; none where it has no pair."""
    styles, train = pairs.column("style"), pairs.column("split") == "train"
    untrained = set(styles) - set(styles[train]) if train.any() else set()
    names = [name for style in untrained for name in (style, pairs.style_words.get(style, ""))]
    return frozenset(name.lower() for name in names if name)


def style_phrase(text: str) -> str | None:
    """What `text` says of the manner: "a fox in the style of Hokusai" says "Hokusai"; None where it says nothing."""
    matches = (pattern.search(text) for pattern in _PHRASES)
    return next((match["name"].strip() for match in matches if match), None)


def search_style(
    retriever: Retriever,
    query: str,
    style: str | None = None,
    *,
    top_k: int,
    examples: Floats | None = None,
    unlike: Collection[str] = (),
    exclude: Collection[str] = (),
) -> Hits:
    """Best pairs in a manner that show other things than some pairs do: how to draw, not what.

    `retrieval.thresholds` have no say: a style neighbor is not to show what was asked for.

    Args:
        retriever: over the pairs.
        query: a text.
        style: of the pairs, or in words where they have no labels; None takes what the text says, or examples alone.
        top_k: hits asked for.
        examples: (m, D) unit vectors of pictures in that manner; what looks like their mean comes first. Without them
            what is akin to the query comes first where pairs are labelled, else what is akin to the manner's words.
        unlike: pair ids, hits of the same query, whose entities must not come.
        exclude: pair ids that must not come.

    Returns:
        At most `top_k` pairs, best first.

    Raises:
        ValueError: there is no such style, or neither a style nor an example.
    """
    rows = _same_things(retriever, unlike, exclude)
    labels = retriever.styles
    label = style if style in labels else retriever.corpus.style_named_in(query) if style is None else None
    within = None if label is None else labels[label]
    if examples is not None:
        mean = examples.mean(axis=0, keepdims=True)
        by_image = ImageQuery(mean / max(float(np.linalg.norm(mean)), 1e-9), 1.0)
        (ranking,) = retriever.rank([readable(query)], depth=top_k, exclude=[rows], within=within, by_image=by_image)
        return retriever.hits(ranking, top_k)
    if label is not None:
        (ranking,) = retriever.rank([readable(query)], depth=top_k, exclude=[rows], within=within)
        return retriever.hits(ranking, top_k)
    words = style_phrase(query) if style is None else style
    if words is None:
        raise ValueError(
            f"style: expected a style, or a text that names one of the knowledge base, got {query!r}; give style or "
            "style_images, or ask for no style neighbors"
        )
    if set(labels) - {NO_STYLE}:
        known = ", ".join(sorted(labels)[:12])
        raise ValueError(f"style: expected one of the knowledge base, as {known}, got {words!r}")
    weights = dict(retriever.method.weights)
    weights["text_to_image"] = max(weights.get("text_to_image", 0.0), weights.get("text_to_text", 0.0))
    by_words = retriever.weighted(weights)
    (ranking,) = by_words.rank([readable(words)], depth=top_k, exclude=[rows])
    return by_words.hits(ranking, top_k)


def _same_things(retriever: Retriever, unlike: Collection[str], exclude: Collection[str]) -> Ints:
    """Rows that show what some pairs show, and those that are excluded."""
    pairs = retriever.corpus
    excluded = pairs.rows(exclude)
    if not unlike:
        return np.unique(excluded)
    entities = set(pairs.cells("entity", pairs.rows(unlike)))
    same = np.flatnonzero(np.isin(pairs.column("entity"), sorted(entities)))
    return np.union1d(same, excluded)
