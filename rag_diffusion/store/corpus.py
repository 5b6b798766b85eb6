"""The corpus on disk: parquet shards with stable ids, and a manifest with their hash."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rag_diffusion.arrays import Ints, Pixels
from rag_diffusion.errors import DataError
from rag_diffusion.extras import need
from rag_diffusion.files import atomic_dir
from rag_diffusion.readers.images import encode_png
from rag_diffusion.store.manifest import CORPUS_NAME, COUNTED, PIPELINE, Manifest
from rag_diffusion.store.pair_set import PairColumns, PairSet
from rag_diffusion.store.pairs import Pairs
from rag_diffusion.store.pipeline_corpus import CORPUS_MANIFEST, read_corpus
from rag_diffusion.store.shards import SCHEMA, SHARD_ROWS, TEXT_SCHEMA, check_shard, hash_of_shards, write_shard
from rag_diffusion.types import Pair

if TYPE_CHECKING:  # drawing, retrieval and training read columns
    import pandas as pd


def write_corpus(
    path: Path | str,
    pairs: Iterable[Pair],
    *,
    image_size: int,
    facts: dict[str, Any],
    originals: Callable[[Path, Sequence[str]], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Write pairs as parquet shards and a manifest; the same pairs give the same bytes.

    Args:
        path: folder to make or to replace, as a whole or not at all.
        pairs: in any order; written sorted by pair id.
        image_size: side of the images in pixels.
        facts: more entries for the manifest, e.g. `rejected`.
        originals: puts the files that the pairs were made of, in the order of their ids, into the folder, and returns
            entries for the manifest, see `KeptItems.move`; None keeps none beside the pairs.

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
        if originals is not None:
            manifest |= originals(folder, [pair.pair_id for pair in rows])
        text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False)
        (folder / CORPUS_MANIFEST).write_text(text + "\n", encoding="utf-8")
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


class _Rendered:
    """Images that are pixels already; see `Images`."""

    def __init__(self, pixels: Pixels) -> None:
        self._pixels = pixels

    def image(self, row: int) -> bytes:
        return encode_png(self._pixels[row])

    def both(self, row: int) -> tuple[bytes, bytes | None]:
        return self.image(row), None


class Corpus(Pairs):
    """The pipeline's corpus: one data set, whose rows are looked up and whose images are decoded but once.

    Args:
        path: its folder.
        manifest: all that `ingest` wrote of it: counts, hashes, rejections.
        pairs: of the folder.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], pairs: PairSet) -> None:
        super().__init__([pairs], pairs.manifest.image_size)
        self.path, self.manifest = path, manifest
        self._row_of = {name: row for row, name in enumerate(self.column("pair_id"))}

    @classmethod
    def open(cls, path: Path | str) -> Corpus:
        """Read the corpus at `path` and check every byte of its shards.

        Raises:
            DataError: it is missing, or a shard is missing, empty or damaged.
        """
        path = Path(path)
        facts, manifest = read_corpus(path)
        for shard in manifest.shards:
            check_shard(path / shard["name"], shard, remedy="run the stage `ingest` again")
        return cls(path, facts, PairSet.of_corpus(path, manifest))

    @classmethod
    def in_memory(cls, path: Path, table: pa.Table, pixels: Pixels, corpus_hash: str) -> Corpus:
        """A corpus whose images are rendered already.

        Args:
            path: where it is from.
            table: N pairs but for their images and originals.
            pixels: (N, H, W, 3) uint8 RGB.
            corpus_hash: its identity.
        """
        size, rows = pixels.shape[1], len(pixels)
        manifest = Manifest(name=CORPUS_NAME, form=PIPELINE, num_pairs=rows, hash=corpus_hash, image_size=size)
        columns = PairColumns(table.select(TEXT_SCHEMA.names).cast(TEXT_SCHEMA))
        corpus = cls(path, {}, PairSet(manifest=manifest, columns=columns, images=_Rendered(pixels)))
        corpus._pixels = pixels
        return corpus

    @cached_property
    def table(self) -> pd.DataFrame:
        """Every column but the images, sorted by pair id; the index is the row number.

        Raises:
            MissingExtraError: pandas is not installed, which the extra `pipeline` brings.
        """
        need("pipeline", "pandas")
        texts = self.parts[0].columns.table
        table: pd.DataFrame = texts.cast(pa.schema([(name, pa.string()) for name in texts.column_names])).to_pandas()
        return table

    def find(self, pair_id: str) -> int | None:
        """Row of `pair_id`; None where there is no such pair."""
        return self._row_of.get(pair_id)

    def pixels(self, rows: Sequence[int] | Ints | None = None) -> Pixels:
        """(n, H, W, 3) RGB of `rows`, of all where it is None; all are decoded at the first call, and kept."""
        return self._pixels if rows is None else self._pixels[np.asarray(rows, dtype=np.int64)]

    @cached_property
    def _pixels(self) -> Pixels:
        return super().pixels(np.arange(len(self)))
