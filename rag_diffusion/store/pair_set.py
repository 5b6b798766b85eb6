"""The pairs of one data set, read where they lie: text columns, images and originals.

Shapes: n pairs.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol, Self

import pyarrow as pa
import pyarrow.parquet as pq

from rag_diffusion.errors import DataError, LineageError
from rag_diffusion.store.integrity import check_files, check_originals
from rag_diffusion.store.manifest import Manifest, originals_hint, rebuild_hint
from rag_diffusion.store.originals import Original, Originals
from rag_diffusion.store.shards import CODED, TEXT_COLUMNS, TEXT_SCHEMA, Shards
from rag_diffusion.types import Pair

TABLE = "table.arrow"  # the text columns, in the folder of a generation


class Images(Protocol):
    """The images of a data set's pairs, by row: `Shards`, or what is held in memory."""

    def image(self, row: int) -> bytes:
        """PNG file of the pair at `row`."""
        ...

    def both(self, row: int) -> tuple[bytes, bytes | None]:
        """PNG file of the pair at `row`, and the original that lies with it, if any."""
        ...


class PairColumns:
    """The text columns of a data set's pairs, sorted by pair id, mapped from a file or in Arrow's memory.

    Args:
        table: n rows of `TEXT_SCHEMA`.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self._chunks = {name: table.column(name).chunks for name in table.column_names}
        self._starts = [0, *accumulate(len(chunk) for chunk in self._chunks["pair_id"])]

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @classmethod
    def open(cls, path: Path, rows: int, remedy: str) -> PairColumns:
        """Map the table of a generation.

        Args:
            path: the file.
            rows: n, as its manifest says.
            remedy: what makes a new one.

        Raises:
            DataError: the file is missing or damaged.
            LineageError: it is of another number of pairs.
        """
        try:
            with pa.memory_map(str(path)) as source:
                table = pa.ipc.open_file(source).read_all()
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: expected a table of pairs, got {error}; {remedy}") from None
        check_rows(path, table.num_rows, rows, remedy)
        return cls(table)

    @classmethod
    def from_shards(cls, folder: Path, manifest: Manifest) -> PairColumns:
        """Read the text columns of shards into memory.

        Args:
            folder: where the shards lie.
            manifest: names them.

        Raises:
            DataError: a shard is missing or damaged.
        """
        try:
            tables = [
                pq.read_table(folder / shard["name"], columns=list(TEXT_COLUMNS), read_dictionary=list(CODED))
                for shard in manifest.shards
            ]
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{folder}: expected shards of pairs, got {error}; {rebuild_hint(manifest.name)}") from None
        return cls(pa.concat_tables([table.cast(TEXT_SCHEMA) for table in tables]))

    def cell(self, column: str, row: int) -> str:
        """The value of a `column` at a `row`."""
        number = bisect_right(self._starts, row) - 1
        return str(self._chunks[column][number][row - self._starts[number]].as_py())

    def find(self, pair_id: str) -> int | None:
        """Row of `pair_id`; None where there is no such pair."""
        row = bisect_left(range(len(self)), pair_id, key=lambda row: self.cell("pair_id", row))
        return row if row < len(self) and self.cell("pair_id", row) == pair_id else None


@dataclass(frozen=True, kw_only=True)
class PairSet:
    """The pairs of an opened data set; nothing of them changes while it is open.

    Attributes:
        manifest: what the data set says of itself.
        columns: the n pairs but for their images.
        images: their images.
        originals: what the images were made of, where these lie beside the pairs; None where they do not.
    """

    manifest: Manifest
    columns: PairColumns
    images: Images
    originals: Originals | None = None

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def name(self) -> str:
        """Of the data set."""
        return self.manifest.name

    @classmethod
    def of_generation(cls, folder: Path, manifest: Manifest) -> Self:
        """Open a generation of a data set of the knowledge base.

        Args:
            folder: of the generation.
            manifest: names it.

        Raises:
            DataError: a file is missing, cut or damaged.
        """
        check_files(folder, manifest)
        columns = PairColumns.open(folder / TABLE, manifest.num_pairs, rebuild_hint(manifest.name))
        return cls._with_images(folder, manifest, columns)

    @classmethod
    def beside(cls, folder: Path, manifest: Manifest, columns: PairColumns) -> PairSet:
        """A generation whose text columns are mapped already.

        Args:
            folder: of the generation.
            manifest: names it.
            columns: of its pairs.

        Raises:
            DataError: a file is missing or cut.
        """
        check_files(folder, manifest)
        return PairSet._with_images(folder, manifest, columns)

    @classmethod
    def of_corpus(cls, folder: Path, manifest: Manifest) -> Self:
        """Open the pipeline's corpus, whose text columns are read into memory.

        Args:
            folder: of the corpus.
            manifest: see `pipeline_corpus.as_manifest`.

        Raises:
            DataError: a shard is missing or damaged, or an original is missing or cut.
        """
        check_originals(folder, manifest)
        return cls._with_images(folder, manifest, PairColumns.from_shards(folder, manifest))

    @classmethod
    def _with_images(cls, folder: Path, manifest: Manifest, columns: PairColumns) -> Self:
        kept, remedy = None, originals_hint(manifest.name)
        if manifest.num_originals:
            kept = Originals(folder, manifest.num_pairs, remedy=remedy)
        images = Shards(folder, manifest.shards, remedy=rebuild_hint(manifest.name))
        return cls(manifest=manifest, columns=columns, images=images, originals=kept)

    def original(self, row: int) -> Original | None:
        """What the image of the pair at `row` was made of, opened; None where it is not kept.

        Raises:
            DataError: the data set was replaced or removed, or is damaged.
        """
        if self.originals is not None:
            return self.originals.open(row)
        content = self.images.both(row)[1]
        return None if content is None else Original.of(content)

    def pair(self, row: int) -> Pair:
        """The whole pair at `row`; without its original where this lies beside the pairs."""
        image, original = self.images.both(row)
        texts = {name: self.columns.cell(name, row) for name in TEXT_COLUMNS}
        return Pair(**texts, image=image, original=original)


def check_rows(what: Any, got: int, expected: int, remedy: str) -> None:
    """Refuse a file of another number of pairs.

    Args:
        what: the file, for the message.
        got: pairs that it is of.
        expected: pairs of the data set.
        remedy: what makes a new one.

    Raises:
        LineageError: they differ.
    """
    if got != expected:
        raise LineageError(f"{what}: expected {expected} pairs, got {got}; {remedy}")
