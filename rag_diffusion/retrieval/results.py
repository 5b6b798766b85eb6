"""Hits of a query, of one retriever or of one for each text: those that lie here, and those that remotes sent for it.

A text sees no pair that was sent for another one, so that what it finds does not depend on what else is asked with it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rag_diffusion.retrieval.query import Query
from rag_diffusion.retrieval.style import search_style
from rag_diffusion.retrieval.weakness import weak_match
from rag_diffusion.store.pairs import Pairs
from rag_diffusion.types import Hits

if TYPE_CHECKING:
    from rag_diffusion.retrieval.retriever import Retriever

NO_HITS = Hits(pair_ids=(), scores=(), parts={})


@dataclass(frozen=True, kw_only=True, eq=False)
class Results:
    """What a query found; see `SearchResults`.

    Attributes:
        query: that was asked.
        hits: of each of its texts.
        style: style neighbors of each.
        retrievers: what searched each; None where there is not one pair.
        remotes: names of the remote data sets that were asked.
        trouble: what went wrong at remotes, in words.
    """

    query: Query
    hits: Sequence[Hits]
    style: Sequence[Hits]
    retrievers: Sequence[Retriever | None]
    remotes: tuple[str, ...] = ()
    trouble: tuple[str, ...] = ()

    def pairs(self, row: int) -> Pairs | None:
        """See `SearchResults.pairs` for `row`."""
        retriever = self.retrievers[row]
        return None if retriever is None else retriever.corpus

    def weak_match(self, row: int) -> str:
        """See `SearchResults.weak_match` for `row`."""
        retriever = self.retrievers[row]
        return "" if retriever is None else weak_match(retriever, self.query.texts[row], self.hits[row])

    def search(self, query: Query) -> Results:
        """See `SearchResults.search` for `query`.

        Raises:
            ValueError: a text is none of the query that this is of.
        """
        by_text = dict(zip(self.query.texts, self.retrievers, strict=True))
        unknown = sorted(set(query.texts) - set(by_text))
        if unknown:
            raise ValueError(f"texts: expected some of the first query, as {next(iter(by_text), '')!r}, got {unknown}")
        return search_each([by_text[text] for text in query.texts], query, self.remotes, self.trouble)


def search_each(
    retrievers: Sequence[Retriever | None], query: Query, remotes: tuple[str, ...] = (), trouble: tuple[str, ...] = ()
) -> Results:
    """Search each text with a retriever of its own; those of one retriever together.

    Args:
        retrievers: one for each text; None finds nothing.
        query: what is searched for.
        remotes: names of the remote data sets that were asked.
        trouble: what went wrong at remotes, in words.

    Raises:
        LineageError, ValueError: as `Retriever.search`.
    """
    hits, style = [NO_HITS] * len(retrievers), [NO_HITS] * len(retrievers)
    for retriever in {id(given): given for given in retrievers if given is not None}.values():
        own = [row for row, given in enumerate(retrievers) if given is retriever]
        part = query.part(own)
        if part.exclude is not None and remotes:
            part = replace(part, exclude=[_that_came(retriever.corpus, ids, remotes) for ids in part.exclude])
        for place, (row, own_hits) in enumerate(zip(own, retriever.find(part), strict=True)):
            hits[row] = own_hits
            if query.style_top_k:
                style[row] = _style(retriever, part, place, own_hits)
    return Results(query=query, hits=hits, style=style, retrievers=retrievers, remotes=remotes, trouble=trouble)


def _that_came(pairs: Pairs, pair_ids: Collection[str], remotes: Collection[str]) -> list[str]:
    """Pair ids without those of remotes that sent no such pair."""
    return [name for name in pair_ids if name.split("/", 1)[0] not in remotes or pairs.find(name) is not None]


def _style(retriever: Retriever, query: Query, row: int, hits: Hits) -> Hits:
    """Style neighbors of a text."""
    return search_style(
        retriever,
        query.texts[row],
        query.style,
        top_k=query.style_top_k,
        examples=None if query.style_images is None else retriever.image_vectors(query.style_images),
        unlike=hits.pair_ids,
        exclude=() if query.exclude is None else query.exclude[row],
    )
