"""A data set from its shards and rejections alone, for when all that was made from them is out of date or damaged."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rag_diffusion.errors import DataError
from rag_diffusion.readers.records import Rejection
from rag_diffusion.store.build import GROUP_ROWS
from rag_diffusion.store.manifest import REJECTED, Manifest
from rag_diffusion.store.shards import check_shard
from rag_diffusion.types import Pair


class ShardSource:
    """What a data set was made of: rejections, then pairs in the order of their ids, in constant memory.

    Args:
        folder: of a generation.
        manifest: names its shards.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder, self._manifest = folder, manifest

    def __iter__(self) -> Iterator[Rejection | Pair]:
        yield from self.rejected()
        yield from self.pairs()

    def rejected(self) -> Iterator[Rejection]:
        """What was not taken; a damaged list of it is no reason to lose the pairs, and ends."""
        try:
            with (self._folder / REJECTED).open(encoding="utf-8") as lines:
                yield from (Rejection(**json.loads(line)) for line in lines)
        except (OSError, ValueError, TypeError) as error:
            yield Rejection(what=REJECTED, reason=f"damaged list of rejections: {error}")

    def pair_ids(self) -> pa.ChunkedArray:
        """Ids of all pairs, in their order; of shards that were read before."""
        paths = (self._folder / shard["name"] for shard in self._manifest.shards)
        columns = (pq.read_table(path, columns=["pair_id"]).column(0) for path in paths)
        return pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())

    def pairs(self) -> Iterator[Pair]:
        """All pairs.

        Raises:
            DataError: a shard is missing or damaged.
        """
        for shard in self._manifest.shards:
            path = self._folder / shard["name"]
            remedy = f"add the data set again from its source, {self._manifest.origin or 'the uploads'}, with --replace"
            check_shard(path, shard, remedy=remedy)
            try:
                for batch in pq.ParquetFile(path).iter_batches(batch_size=GROUP_ROWS):
                    for row in batch.to_pylist():
                        yield Pair(**row)
            except (OSError, ValueError, pa.ArrowException) as error:
                raise DataError(f"{path}: expected a shard of {shard['rows']} pairs, got {error}; {remedy}") from None


class StoredSegments:
    """What a data set was made of: the rejections of all its segments, then the pairs of each.

    Args:
        sources: of the segments.
    """

    def __init__(self, sources: Sequence[ShardSource]) -> None:
        self._sources = sources

    def __iter__(self) -> Iterator[Rejection | Pair]:
        yield from chain.from_iterable(source.rejected() for source in self._sources)
        yield from chain.from_iterable(source.pairs() for source in self._sources)
