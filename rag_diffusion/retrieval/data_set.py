"""One data set, read where it lies: a table, vectors and shards mapped from files, indexes and word counts.

Shapes: n pairs, D width.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from rag_diffusion.errors import DataError, LineageError
from rag_diffusion.layout import CORPUS, INDEX, VECTORS
from rag_diffusion.retrieval.ann import Nearest
from rag_diffusion.retrieval.counts import TermCounts
from rag_diffusion.retrieval.indexes import open_indexes
from rag_diffusion.store.build import TABLE, WORDS
from rag_diffusion.store.manifest import Manifest, originals_hint, rebuild_hint
from rag_diffusion.store.originals import Original, Originals
from rag_diffusion.store.shards import COLUMNS, Shards
from rag_diffusion.store.stamps import check_stamp
from rag_diffusion.store.vectors import VECTORS_FILE, Vectors
from rag_diffusion.store.whole import check_files
from rag_diffusion.types import Pair


class Images(Protocol):
    """The images of a data set's pairs, by row: `Shards`, or what is held in memory."""

    def image(self, row: int) -> bytes:
        """The image file of a pair."""
        ...

    def both(self, row: int) -> tuple[bytes, bytes | None]:
        """The image file of a pair, and what it was rendered from, if anything."""
        ...


class PairColumns:
    """The text columns of a data set's pairs, sorted by pair id, mapped from a file or in Arrow's memory.

    Args:
        table: every column of `Pair` but the images.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self._chunks = {name: table.column(name).chunks for name in table.column_names}
        self._starts = [0, *accumulate(len(chunk) for chunk in self._chunks["pair_id"])]

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def cell(self, column: str, row: int) -> str:
        """What stands in a column at a row."""
        number = bisect_right(self._starts, row) - 1
        return str(self._chunks[column][number][row - self._starts[number]].as_py())

    def find(self, pair_id: str) -> int | None:
        """Row of a pair, if it is there."""
        row = bisect_left(range(len(self)), pair_id, key=lambda row: self.cell("pair_id", row))
        return row if row < len(self) and self.cell("pair_id", row) == pair_id else None


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """An opened data set; nothing of it changes while it is open.

    Attributes:
        manifest: what it says of itself.
        columns: its pairs but for the images.
        shards: its images.
        vectors: (n, D) of images and captions.
        indexes: nearest neighbors over them, `text_to_text` and `text_to_image`.
        counts: of the words of its captions.
        originals: what its images were made of, where they lie beside the pairs; None where they do not.
    """

    manifest: Manifest
    columns: PairColumns
    shards: Images
    vectors: Vectors
    indexes: Mapping[str, Nearest]
    counts: TermCounts
    originals: Originals | None = None

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def name(self) -> str:
        """Of the data set."""
        return self.manifest.name

    @classmethod
    def open(cls, folder: Path, manifest: Manifest) -> DataSet:
        """Open one generation of a data set.

        Args:
            folder: of the generation.
            manifest: names it.

        Raises:
            DataError: a file is missing, cut or damaged.
        """
        check_files(folder, manifest)
        table = mapped_table(folder / TABLE, manifest.num_pairs, rebuild_hint(manifest.name))
        return cls._opened(manifest, table, folder, folder, folder, str(manifest.recall["factory"]))

    @classmethod
    def of_pipeline(cls, root: Path, manifest: Manifest) -> DataSet:
        """Open the pipeline's own corpus where `ingest`, `embed` and `index` left it.

        Args:
            root: the project.
            manifest: of `pipeline_corpus.corpus_manifest`.

        Raises:
            DataError: an artifact is missing or damaged.
            LineageError: an artifact was made from another corpus, or with another encoder than the vectors.
        """
        check_stamp(root / VECTORS, manifest.hash, stage="embed")
        stamp = check_stamp(root / INDEX, manifest.hash, stage="index")
        if stamp.get("encoder_hash") != manifest.encoder_hash:
            raise LineageError(
                f"{root / INDEX}: expected an index of encoder {manifest.encoder_hash}, got one of encoder "
                f"{stamp.get('encoder_hash')}; {rebuild_hint(manifest.name)}"
            )
        table = _columns(root / CORPUS, manifest)
        return cls._opened(manifest, table, root / CORPUS, root / VECTORS, root / INDEX, str(stamp.get("factory")))

    @classmethod
    def _opened(
        cls, manifest: Manifest, table: pa.Table, shards: Path, vectors: Path, index: Path, factory: str
    ) -> DataSet:
        """What lies in three folders, or in one."""
        remedy, rows = rebuild_hint(manifest.name), manifest.num_pairs
        mapped = Vectors.open(vectors / VECTORS_FILE, rows, remedy=remedy)
        return cls(
            manifest=manifest,
            columns=PairColumns(table),
            shards=Shards(shards, manifest.shards, remedy=remedy),
            vectors=mapped,
            indexes=open_indexes(index, mapped, factory, remedy),
            counts=_counts(index, rows, remedy),
            originals=_originals(shards, manifest),
        )

    def original(self, row: int) -> Original | None:
        """What the image of a pair was made of, opened; None where it is not kept.

        Raises:
            DataError: the data set was replaced or removed, or is damaged.
        """
        if self.originals is not None:
            return self.originals.open(row)
        content = self.shards.both(row)[1]
        return None if content is None else Original.of(content)

    def pair(self, row: int) -> Pair:
        """One whole pair; without its original where this lies beside the pairs."""
        image, original = self.shards.both(row)
        texts = {name: self.columns.cell(name, row) for name in COLUMNS if name not in ("image", "original")}
        return Pair(**texts, image=image, original=original)


def mapped_table(path: Path, rows: int, remedy: str) -> pa.Table:
    """The text columns of `rows` pairs.

    Raises:
        DataError: the file is missing or damaged.
        LineageError: it is of another number of pairs.
    """
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: expected a table of pairs, got {error}; {remedy}") from None
    _check_rows(path, table.num_rows, rows, remedy)
    return table


def _columns(folder: Path, manifest: Manifest) -> pa.Table:
    """The text columns of the pipeline's shards, in memory."""
    names = [name for name in COLUMNS if name not in ("image", "original")]
    coded = pa.dictionary(pa.int32(), pa.string())
    schema = pa.schema([(name, coded if name in WORDS else pa.string()) for name in names])
    try:
        tables = [
            pq.read_table(folder / shard["name"], columns=names, read_dictionary=list(WORDS)).cast(schema)
            for shard in manifest.shards
        ]
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{folder}: expected shards of pairs, got {error}; {rebuild_hint(manifest.name)}") from None
    return pa.concat_tables(tables)


def _originals(folder: Path, manifest: Manifest) -> Originals | None:
    if not manifest.num_originals:
        return None
    return Originals(folder, manifest.num_pairs, remedy=originals_hint(manifest.name))


def _counts(folder: Path, rows: int, remedy: str) -> TermCounts:
    counts = TermCounts.load(folder, remedy=remedy)
    _check_rows(folder, len(counts.lengths), rows, remedy)
    return counts


def _check_rows(what: Any, got: int, expected: int, remedy: str) -> None:
    if got != expected:
        raise LineageError(f"{what}: expected {expected} pairs, got {got}; {remedy}")
