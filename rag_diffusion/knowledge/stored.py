"""The pairs of a data set from its shards alone, for when everything made from them is out of date or damaged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rag_diffusion.errors import DataError
from rag_diffusion.files import file_hash
from rag_diffusion.knowledge.build import GROUP_ROWS
from rag_diffusion.knowledge.manifest import Manifest
from rag_diffusion.types import Pair


class StoredPairs:
    """Pairs in the order of their ids, in constant memory; can be read again and again.

    Args:
        folder: of a generation.
        manifest: names its shards.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder, self._manifest = folder, manifest

    def __iter__(self) -> Iterator[Pair]:
        for shard in self._manifest.shards:
            path = self._folder / shard["name"]
            try:
                if file_hash(path) != shard["sha256"]:
                    raise ValueError("other bytes than its manifest tells")
                for batch in pq.ParquetFile(path).iter_batches(batch_size=GROUP_ROWS):
                    for row in batch.to_pylist():
                        yield Pair(**row)
            except (OSError, ValueError, pa.ArrowException) as error:
                raise DataError(
                    f"{path}: expected a shard of {shard['rows']} pairs, got {error}; add the data set again from its "
                    f"source, {self._manifest.origin or 'the uploads'}, with --replace"
                ) from None
