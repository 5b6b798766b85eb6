"""One shard of a data set's index in a process of its own, which needs no torch. Ray Serve starts it.

Shapes: D width, k hits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rag_diffusion.arrays import Floats
from rag_diffusion.engine.work import check_code
from rag_diffusion.errors import LineageError
from rag_diffusion.knowledge.catalogue import Catalogue
from rag_diffusion.knowledge.folders import DataSetFolders
from rag_diffusion.layout import CORPUS, INDEX
from rag_diffusion.retrieval.index_shards import open_shard, shards_of, vectors_folder
from rag_diffusion.store.manifest import PIPELINE, Manifest, rebuild_hint
from rag_diffusion.store.pair_set import TABLE, PairColumns
from rag_diffusion.store.segments import Segment, segments_of
from rag_diffusion.store.stamps import check_stamp
from rag_diffusion.store.vectors import VECTORS_FILE, Vectors

_TOLD = ["pair_id", "caption"]  # columns


@dataclass(frozen=True, kw_only=True)
class ServedShard:
    """What one process serves.

    Attributes:
        root: the project, on every machine.
        segment: of a data set.
        shard: of the segment's index, one of `shards_of`.
    """

    root: Path
    segment: Segment
    shard: Mapping[str, Any]

    @property
    def data_set(self) -> str:
        """Name of the data set."""
        return self.segment.manifest.name

    @property
    def name(self) -> str:
        """Data set, segment and shard, without the segment or the shard that is the only one."""
        parts = (self.data_set, self.segment.folder, str(self.shard["name"]))
        return "/".join(part for part in parts if part not in ("", "."))


def served_shards(catalogue: Catalogue) -> list[ServedShard]:
    """The shards of all data sets that lie in the project of a `catalogue`, the pipeline's corpus once it is indexed.

    Raises:
        DataError: a data set is damaged.
        LineageError: it is not of the present encoder or image size, or its index not of its pairs.
    """
    served = []
    for name in catalogue.searchable():
        manifest = catalogue.info(name)
        catalogue.check_present(manifest)
        for segment in segments_of(manifest):
            files = _files(catalogue.root, segment)
            shards = shards_of(files.index, segment.manifest.num_pairs, files.factory, rebuild_hint(name))
            served += [ServedShard(root=catalogue.root, segment=segment, shard=shard) for shard in shards]
    return served


class IndexShard:
    """Searches one shard.

    Args:
        served: says which.
        code: see `check_code`.

    Raises:
        DataError: the shard is missing or damaged.
        LineageError: this machine has another index or version of the library, or the data set has changed.
    """

    def __init__(self, served: ServedShard, code: str) -> None:
        check_code(code)
        manifest, start, stop = served.segment.manifest, served.shard["start"], served.shard["stop"]
        files, remedy = _files(served.root, served.segment), rebuild_hint(manifest.name)
        vectors = Vectors.open(files.vectors / VECTORS_FILE, manifest.num_pairs, remedy=remedy)
        self._indexes = open_shard(files.index, vectors, served.shard, remedy)
        if manifest.form == PIPELINE:  # in memory: the rows of this shard alone
            columns = PairColumns.from_shards(served.root / CORPUS, manifest).table.select(_TOLD)
            self._columns = PairColumns(columns.take(np.arange(start, stop)))
        else:
            columns = PairColumns.open(files.index / TABLE, manifest.num_pairs, remedy).table.select(_TOLD)
            self._columns = PairColumns(columns.slice(start, stop - start))

    def search(self, similarity: str, vector: Floats, k: int) -> list[tuple[str, float, str]]:
        """Best hits of a query in this shard.

        Args:
            similarity: `text_to_text` or `text_to_image`.
            vector: (1, D), of unit length.
            k: hits asked for; an approximate index may find fewer.

        Returns:
            Pair id, score and caption of each, best first.
        """
        scores, rows = (found[0] for found in self._indexes[similarity].search(vector, k))
        cell, real = self._columns.cell, rows >= 0
        return [
            (cell("pair_id", row), score, cell("caption", row))
            for row, score in zip(rows[real].tolist(), scores[real].tolist(), strict=True)
        ]


@dataclass(frozen=True)
class _Files:
    """Folders of a segment's index, and of the vectors that it searches; the factory of an index in no shards."""

    index: Path
    vectors: Path
    factory: str


def _files(root: Path, segment: Segment) -> _Files:
    """Where a segment lies now: an insertion moves those that it leaves as they are."""
    manifest = segment.manifest
    if manifest.form == PIPELINE:
        stamp = check_stamp(root / INDEX, manifest.hash, stage="index")
        return _Files(root / INDEX, vectors_folder(root, stamp), str(stamp["factory"]))
    folders = DataSetFolders(root)
    present = Manifest.read(folders.manifest(manifest.name))
    for one in segments_of(present):
        if one.content == segment.content:
            folder = folders.generation(manifest.name, present.generation) / one.folder
            return _Files(folder, folder, str(manifest.recall["factory"]))
    raise LineageError(
        f"{folders.manifest(manifest.name)}: expected {segment.folder or 'the pairs'} of {manifest.name!r} as served, "
        "got others: they were merged, replaced or removed, or this machine has old files; end `rag-diffusion cluster "
        "serve` and start it again"
    )
