"""One retriever a query, over the pairs that lie here and those that remotes sent for this query.

A query sees no visitor of another one, so that what it finds does not depend on what else is asked with it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rag_diffusion.arrays import Floats, Pixels
from rag_diffusion.retrieval.retriever import Retriever
from rag_diffusion.retrieval.stacked import StackedPairs
from rag_diffusion.store.filters import Filter
from rag_diffusion.types import Hits

NOTHING = Hits(pair_ids=(), scores=(), parts={})


@dataclass(frozen=True, kw_only=True)
class Everywhere:
    """Where Q queries are searched.

    Attributes:
        retrievers: one for each query; None where there is not one pair.
        remotes: names of the remote data sets that were asked.
        trouble: what went wrong at remotes, in words; empty where all went well.
    """

    retrievers: Sequence[Retriever | None]
    remotes: tuple[str, ...] = ()
    trouble: tuple[str, ...] = ()

    def repeated(self, times: int) -> Everywhere:
        """The same for each query several times, those of a query together."""
        return replace(self, retrievers=[one for one in self.retrievers for _ in range(times)])

    def search(
        self,
        queries: Sequence[str],
        *,
        top_k: int,
        where: Filter | None = None,
        exclude: Sequence[Collection[str]] | None = None,
        without_duplicates: bool = False,
        exclude_images: Pixels | None = None,
        query_vectors: Floats | None = None,
        query_images: Pixels | None = None,
        image_weight: float = 0.5,
    ) -> list[Hits]:
        """Best pairs of every query; see `Retriever.search`.

        Args:
            queries: the Q texts that this is for.
            top_k: hits asked for.
            where: which pairs may come.
            exclude: per query, pair ids that must not come; of remote pairs also such as were not sent.
            without_duplicates: whether near-duplicates of the excluded pairs must not come either, in no data set.
            exclude_images: (Q, H, W, 3) uint8, per query a picture that must not come, nor a near-duplicate of it.
            query_vectors: (Q, D) vectors of the queries where they are known.
            query_images: (Q, H, W, 3) uint8 that the hits are to look like as well.
            image_weight: share of the images in the score.
        """
        found = [NOTHING] * len(queries)
        for retriever in {id(one): one for one in self.retrievers if one is not None}.values():
            own = [number for number, one in enumerate(self.retrievers) if one is retriever]
            ids = None if exclude is None else [self._here(retriever, exclude[number]) for number in own]
            if ids is not None and without_duplicates:
                ids = [[*some, *_elsewhere(retriever, some)] for some in ids]
            pairs = retriever.corpus
            hits = retriever.search(
                [queries[number] for number in own],
                top_k=top_k,
                within=pairs.mask(where) if isinstance(pairs, StackedPairs) else None,
                exclude=ids,
                without_duplicates=without_duplicates,
                exclude_images=None if exclude_images is None else exclude_images[own],
                query_vectors=None if query_vectors is None else query_vectors[own],
                query_images=None if query_images is None else query_images[own],
                image_weight=image_weight,
            )
            for number, one in zip(own, hits, strict=True):
                found[number] = one
        return found

    def _here(self, retriever: Retriever, pair_ids: Collection[str]) -> list[str]:
        """Pair ids without those of remotes that sent no such pair."""
        pairs = retriever.corpus
        if not (self.remotes and isinstance(pairs, StackedPairs)):
            return list(pair_ids)
        return [
            pair_id
            for pair_id in pair_ids
            if pair_id.split("/", 1)[0] not in self.remotes or pairs.find(pair_id) is not None
        ]


def _elsewhere(retriever: Retriever, pair_ids: Sequence[str]) -> list[str]:
    """Near-duplicates of pairs in other data sets than their own, where `duplicate_group` does not tell of them."""
    pairs = retriever.corpus
    if not pair_ids or not isinstance(pairs, StackedPairs) or len(pairs.parts) == 1:
        return []
    rows = pairs.rows(pair_ids)
    found: set[int] = set()
    for row, (part, _), pixels in zip(rows, pairs.places(rows), pairs.pixels(rows), strict=True):
        alike = retriever.showing(pixels, retriever.vectors.image[np.asarray([row])][0])
        found.update(int(one) for one, (other, _) in zip(alike, pairs.places(alike), strict=True) if other != part)
    return pairs.ids(np.asarray(sorted(found), dtype=np.int64))
