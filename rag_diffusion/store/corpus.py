"""The corpus on disk: parquet shards with stable ids, and a manifest with their hash."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rag_diffusion.arrays import Ints, Pixels, Strings
from rag_diffusion.errors import DataError, LineageError
from rag_diffusion.extras import need
from rag_diffusion.files import atomic_dir
from rag_diffusion.store.manifest import COUNTED
from rag_diffusion.store.shards import BYTES, SCHEMA, SHARD_ROWS, check_shard, hash_of_shards, write_shard
from rag_diffusion.types import DataSetVersion, Pair

if TYPE_CHECKING:  # drawing, retrieval and training read columns
    import pandas as pd


def write_corpus(path: Path | str, pairs: Iterable[Pair], *, image_size: int, facts: dict[str, Any]) -> dict[str, Any]:
    """Write pairs as parquet shards and a manifest; the same pairs give the same bytes.

    Args:
        path: folder to make or to replace, as a whole or not at all.
        pairs: in any order; written sorted by pair id.
        image_size: side of the images in pixels.
        facts: more entries for the manifest, e.g. `rejected`.

    Returns:
        The manifest.

    Raises:
        DataError: no pairs, a pair id twice, or a full disk.
    """
    rows = sorted(pairs, key=lambda pair: pair.pair_id)
    twice = [name for name, count in Counter(pair.pair_id for pair in rows).items() if count > 1]
    if not rows or twice:
        got = f"pair ids that occur twice: {twice[:5]}" if twice else "no pair at all"
        raise DataError(
            f"{path}: expected pairs with distinct ids, got {got}; look at the source's rejections: "
            f"{facts.get('rejected', [])[:5]}"
        )
    with atomic_dir(path) as folder:
        shards = []
        for number, start in enumerate(range(0, len(rows), SHARD_ROWS)):
            table = pa.Table.from_pylist([vars(pair) for pair in rows[start : start + SHARD_ROWS]], schema=SCHEMA)
            shard = write_shard(folder / f"pairs-{number:05d}.parquet", [table], compression="zstd")
            shards.append({name: shard[name] for name in ("name", "rows", "sha256")})
        manifest = _manifest(rows, shards, image_size) | facts
        text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False)
        (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")
    return manifest


def _manifest(rows: Sequence[Pair], shards: list[dict[str, Any]], image_size: int) -> dict[str, Any]:
    count = {name: dict(sorted(Counter(getattr(pair, name) for pair in rows).items())) for name in COUNTED}
    return {
        "hash": hash_of_shards(shards),
        "shards": shards,
        "num_pairs": len(rows),
        "image_size": image_size,
        "counts": count,
        "num_entities": len({pair.entity for pair in rows}),
        "num_families": len({pair.family for pair in rows}),
    }


class Corpus:
    """A read-only corpus.

    Attributes:
        manifest: counts, hashes, rejections.
        hash: identity of the corpus, stamped on all that is made from it.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], table: pa.Table) -> None:
        self.path = path
        self.manifest = manifest
        self.hash: str = manifest["hash"]
        self.image_size: int = manifest["image_size"]
        self._columns = table.drop_columns(list(BYTES))
        self._read: dict[str, Strings] = {}
        self._images: pa.ChunkedArray = table.column("image")
        self._originals: pa.ChunkedArray = table.column("original")
        self._rows = {name: row for row, name in enumerate(self.column("pair_id"))}
        self._pixels: Pixels | None = None

    @classmethod
    def open(cls, path: Path | str) -> Corpus:
        """Read a corpus and check every shard.

        Raises:
            DataError: it is missing, or a shard is missing, empty or damaged.
        """
        path = Path(path)
        try:
            manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(f"{path}: expected a corpus, found no manifest.json; run the stage `ingest`") from None
        except ValueError as error:
            raise DataError(f"{path}/manifest.json: expected JSON, got {error}; run the stage `ingest` again") from None
        for shard in manifest["shards"]:
            check_shard(path / shard["name"], shard, remedy="run the stage `ingest` again")
        tables = [pq.read_table(path / shard["name"], schema=SCHEMA) for shard in manifest["shards"]]
        return cls(path, manifest, pa.concat_tables(tables))

    @classmethod
    def in_memory(cls, path: Path, table: pa.Table, pixels: Pixels, corpus_hash: str) -> Corpus:
        """A corpus whose images are rendered already.

        Args:
            path: where it is from, for messages.
            table: the columns of `Pair` but the images.
            pixels: (N, H, W, 3) images of its rows.
            corpus_hash: its identity.
        """
        bare = table
        for name in BYTES:
            bare = bare.append_column(name, pa.nulls(len(table), pa.binary()))
        corpus = cls(path, {"hash": corpus_hash, "image_size": pixels.shape[1]}, bare)
        corpus._pixels = pixels
        return corpus

    def __len__(self) -> int:
        return int(self._columns.num_rows)

    @cached_property
    def table(self) -> pd.DataFrame:
        """Every column but the images, sorted by pair id; the index is the row number.

        Raises:
            MissingExtraError: pandas is not installed, which the extra `pipeline` brings.
        """
        need("pipeline", "pandas")
        table: pd.DataFrame = self._columns.to_pandas()
        return table

    def column(self, name: str) -> Strings:
        """(N,) what stands in a column, by row; not to be written to."""
        if name not in self._read:
            self._read[name] = self._columns.column(name).to_numpy()
        return self._read[name]

    @property
    def versions(self) -> tuple[DataSetVersion, ...]:
        """It alone; see `Pairs`."""
        return (DataSetVersion(name="corpus", hash=self.hash, num_pairs=len(self)),)

    @property
    def style_words(self) -> Mapping[str, str]:
        """See `Pairs`."""
        words: Mapping[str, str] = self.manifest.get("style_words", {})
        return words

    def row(self, pair_id: str) -> int:
        """Row number of a pair.

        Raises:
            LineageError: this corpus has no such pair.
        """
        try:
            return self._rows[pair_id]
        except KeyError:
            raise LineageError(
                f"{self.path}: expected a pair {pair_id!r}, found none in corpus {self.hash[:12]}; "
                "it comes from another corpus: run `dvc repro`"
            ) from None

    def rows(self, pair_ids: Iterable[str]) -> Ints:
        """Row numbers of several pairs."""
        return np.fromiter((self.row(pair_id) for pair_id in pair_ids), dtype=np.int64)

    def ids(self, rows: Ints) -> list[str]:
        """Pair ids of rows."""
        return self.cells("pair_id", rows)

    def cells(self, column: str, rows: Ints) -> list[str]:
        """What stands in a column at some rows."""
        found: list[str] = self.column(column)[rows].tolist()
        return found

    def groups(self) -> Ints:
        """(N,) numbers; rows with the same one are near-duplicates."""
        return self.numbered("duplicate_group")

    def numbered(self, column: str) -> Ints:
        """(N,) a number for each different value of a column, in the order of their first appearance."""
        codes = self._columns.column(column).combine_chunks().dictionary_encode().indices
        return np.asarray(codes, dtype=np.int64)

    def pixels(self, rows: Sequence[int] | Ints | None = None) -> Pixels:
        """Images as (n, H, W, 3) uint8 RGB; all of them when `rows` is None. Decoded once."""
        if self._pixels is None:
            size = self.image_size
            self._pixels = np.empty((len(self), size, size, 3), dtype=np.uint8)
            for row, cell in enumerate(self._images):
                with Image.open(io.BytesIO(cell.as_py())) as image:
                    self._pixels[row] = np.asarray(image.convert("RGB"))
        return self._pixels if rows is None else self._pixels[np.asarray(rows, dtype=np.int64)]

    def pair(self, pair_id: str) -> Pair:
        """One whole pair, images included."""
        row = self.row(pair_id)
        cells = {name: self.column(name)[row] for name in self._columns.column_names}
        return Pair(**cells, image=self._images[row].as_py(), original=self._originals[row].as_py())
