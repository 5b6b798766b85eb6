"""What a remote sent for some queries, as data sets in memory: made with our encoder, gone when the search is over.

A visitor is then found, filtered, excluded and shown like a pair that lies here, with the score that it would have if
it did. The remote's own scores, of another encoder and another scale, have no say.

Shapes: n pairs of a remote, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from rag_diffusion.knowledge.folders import DataSetFolders
from rag_diffusion.knowledge.ingest import Ingest
from rag_diffusion.knowledge.remote.remote_source import RemoteResults, RemoteSource, find_everywhere, not_taken
from rag_diffusion.retrieval.ann import Exhaustive
from rag_diffusion.retrieval.conjunctions import things
from rag_diffusion.retrieval.counts import TermCounts
from rag_diffusion.retrieval.data_set import DataSet
from rag_diffusion.retrieval.encoder_folder import PairEncoder
from rag_diffusion.retrieval.query import Query
from rag_diffusion.retrieval.tokens import readable
from rag_diffusion.spans import span
from rag_diffusion.store.filters import Filter
from rag_diffusion.store.manifest import Manifest
from rag_diffusion.store.pair_set import PairColumns
from rag_diffusion.store.shards import TEXT_COLUMNS, TEXT_SCHEMA
from rag_diffusion.store.staging import Embedded
from rag_diffusion.store.vectors import Vectors
from rag_diffusion.types import Pair

ASKED = 20  # images that a remote is asked for at least: some will be excluded, or worse than what lies here


class InMemoryImages:
    """Images in memory; see `Shards`.

    Args:
        pairs: of a data set, in its order.
    """

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._pairs = pairs

    def image(self, row: int) -> bytes:
        """The image file of the pair at a `row`."""
        return self._pairs[row].image

    def both(self, row: int) -> tuple[bytes, bytes | None]:
        """The image file of the pair at a `row`, and what it was rendered from, if anything."""
        return self._pairs[row].image, self._pairs[row].original


@dataclass(frozen=True)
class RemotePairs:
    """Pairs of one remote.

    Attributes:
        manifest: of the remote.
        received: the pairs, their vectors, and what was sent and is no pair.
        queries: for each pair, numbers of the queries that it was sent for.
    """

    manifest: Manifest
    received: Embedded
    queries: Sequence[tuple[int, ...]]

    @classmethod
    def from_results(
        cls, manifest: Manifest, answer: RemoteResults, numbers: Sequence[int], encoder: PairEncoder, size: int
    ) -> RemotePairs:
        """Check and embed what came.

        Args:
            manifest: of the remote; its licence and attribution hold where a result tells none.
            answer: what came.
            numbers: for each text that the remote was asked, the query that it is of.
            encoder: that of the pairs that lie here.
            size: side of the pairs' images in pixels.

        Returns:
            The pairs, each with the queries that it was sent for.
        """
        hits = sorted(answer.items, key=lambda hit: hit.item.name)
        ingest = Ingest(replace(manifest, image_size=size, originals=False), encoder)
        received = ingest.embedded([hit.item for hit in hits])
        queries = {f"{manifest.name}/{hit.item.name}": tuple(numbers[row] for row in hit.queries) for hit in hits}
        return cls(manifest, received, [queries[pair.pair_id] for pair in received.pairs])

    @property
    def trouble(self) -> str:
        """What was sent and is no pair, in words; empty where all was."""
        if not self.received.rejected:
            return ""
        return f"remote {self.manifest.name}: {not_taken(self.received.rejected, len(self.received.pairs))}"

    def filtered(self, where: Filter) -> str:
        """Say in words that nothing of it passes the filter `where`; empty where something does, or nothing came."""
        if not where or not self.received.pairs or where.mask(self.manifest.name, _table(self.received.pairs)).any():
            return ""
        return f"remote {self.manifest.name}: none of {len(self.received.pairs)} results passes the filters"

    def data_set(self, query: int) -> DataSet | None:
        """Pairs that were sent for the query of number `query`, as a data set in memory; None where there are none."""
        rows = [row for row, numbers in enumerate(self.queries) if query in numbers]
        if not rows:
            return None
        pairs = [self.received.pairs[row] for row in rows]
        image, text = self.received.image[rows], self.received.text[rows]
        identity = hashlib.sha256()
        for pair in pairs:
            identity.update(f"{pair.pair_id}\n{pair.caption}\n".encode() + hashlib.sha256(pair.image).digest())
        return DataSet(
            manifest=replace(self.manifest, num_pairs=len(pairs), hash=identity.hexdigest()),
            columns=PairColumns(_table(pairs)),
            images=InMemoryImages(pairs),
            vectors=Vectors(image, text),
            indexes={"text_to_text": Exhaustive(text), "text_to_image": Exhaustive(image)},
            counts=TermCounts.from_texts([pair.caption for pair in pairs], needs_words=False),
        )


def _table(pairs: Sequence[Pair]) -> pa.Table:
    """Every column but the images."""
    columns = {name: pa.array([getattr(pair, name) for pair in pairs], pa.string()) for name in TEXT_COLUMNS}
    return pa.table(columns).cast(TEXT_SCHEMA)


def ask_remotes(
    remotes: Sequence[Manifest], query: Query, folders: DataSetFolders, encoder: PairEncoder, size: int
) -> tuple[list[RemotePairs], tuple[str, ...]]:
    """What remotes send for each text of a query, all asked at the same time.

    Servers of this package filter; others are asked for five times as many where something is to pass a filter.

    Args:
        remotes: their manifests.
        query: what is searched for.
        folders: of the knowledge base, where their images are cached.
        encoder: that of the pairs that lie here.
        size: side of the pairs' images in pixels.

    Returns:
        The pairs of each, and what went wrong, in words.
    """
    parts = [(text, row) for row, given in enumerate(query.texts) for text in _texts(readable(given))]
    texts, rows = [text for text, _ in parts], [row for _, row in parts]
    where = query.where.for_remote()
    with span("ask remotes", "TOOL", remotes=[one.name for one in remotes]):
        sources = [RemoteSource.open(folders, manifest, size=size) for manifest in remotes]
        top_k = max(query.top_k, ASKED * (5 if where else 1))
        answers = find_everywhere(sources, texts, top_k=top_k, deadline=query.deadline, where=where)
    with span("embed visitors", "EMBEDDING"):
        per_remote = [RemotePairs.from_results(one, answers[one.name], rows, encoder, size) for one in remotes]
    troubles = [
        trouble
        for pairs in per_remote
        for trouble in (answers[pairs.manifest.name].trouble, pairs.trouble, pairs.filtered(query.where))
    ]
    return per_remote, tuple(filter(None, troubles))


def _texts(query: str) -> list[str]:
    """What a remote is asked for a text: the text, and each thing by itself where it names several."""
    return [query, *(thing.query for thing in things(query))]
