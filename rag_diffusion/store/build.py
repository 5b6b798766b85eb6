"""Finished parts of a build into the files of a data set: sorted shards, table, vectors, originals and rejections.

Memory does not grow with the number of pairs, but for their ids. The same pairs give the same
bytes.

Shapes: n pairs, D width.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rag_diffusion.arrays import Floats, Ints
from rag_diffusion.errors import DataError
from rag_diffusion.files import file_hash
from rag_diffusion.readers.records import Rejection
from rag_diffusion.store.gather import Gathering
from rag_diffusion.store.manifest import COUNTED, REJECTED, Manifest
from rag_diffusion.store.originals import Earlier, write_originals
from rag_diffusion.store.pair_set import TABLE
from rag_diffusion.store.segments import hash_together
from rag_diffusion.store.shards import (
    CODED,
    COLUMNS,
    SHARD_ROWS,
    TEXT_COLUMNS,
    TEXT_SCHEMA,
    digest_of_pairs,
    write_shard,
)
from rag_diffusion.store.staging import Part
from rag_diffusion.store.vectors import VECTORS_FILE, VectorWriter

GROUP_ROWS = 64  # pairs read at a time for one image
_TABLE_ROWS = 65536  # rows of the table and captions held in memory at a time


def write_pairs(folder: Path, parts: list[Part], facts: Manifest, earlier: Sequence[Earlier] = ()) -> Manifest:
    """Write everything but the indexes and the manifest, which wait for `retrieval.indexes`.

    Args:
        folder: empty.
        parts: of the build.
        facts: what is known of the data set before it is built.
        earlier: originals of pairs that were there before.

    Returns:
        The manifest but for `recall`, and for those of `files` that hold no originals.

    Raises:
        DataError: no pair was taken.
    """
    gathering = Gathering(parts)
    if not len(gathering):
        first = next((rejection for part in parts for rejection in part.rejected()), None)
        got = f"rejections alone, the first: {first.what}: {first.reason}" if first else "nothing at all"
        raise DataError(f"kb: expected pairs of images and captions for {facts.name!r}, got {got}")
    reasons = _write_rejected(folder / REJECTED, parts, gathering.twice)
    counts = _counts(gathering)
    shards, digest = _write_shards(folder, gathering, counts)
    return Manifest(
        **asdict(facts)
        | {
            "num_pairs": len(gathering),
            "num_rejected": sum(reasons.values()),
            "rejected_by_reason": dict(sorted(reasons.items())),
            "counts": {name: dict(sorted(counts[name].items())) for name in COUNTED},
            "hash": hash_together([f"{digest:x}"]),
            "shards": shards,
        }
        | write_originals(folder, parts, gathering, earlier)
    )


def describe_files(folder: Path, known: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Length and sha256 of every file below a `folder` that is no shard of pairs, by its path from there.

    Those in `known` are not read.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".parquet")
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {
        name: known.get(name) or {"bytes": path.stat().st_size, "sha256": file_hash(path)}
        for name, path in names.items()
    }


def _write_rejected(path: Path, parts: Iterable[Part], twice: Iterable[str]) -> Counter[str]:
    """All rejections, one a line; returns the number of each reason."""
    reasons = Counter[str]()
    again = (Rejection(what=name, reason="name taken: an earlier pair has this id") for name in twice)
    with path.open("w", encoding="utf-8") as file:
        for rejection in chain(*(part.rejected() for part in parts), again):
            reasons[rejection.kind] += 1
            file.write(json.dumps(asdict(rejection), ensure_ascii=True) + "\n")
    return reasons


def _counts(gathering: Gathering) -> dict[str, Counter[str]]:
    """How often each value stands in each of the columns with few of them."""
    counts = {name: Counter[str]() for name in CODED}
    for rows in gathering.blocks(_TABLE_ROWS):
        table = gathering.table(rows, CODED)
        for name in CODED:
            for entry in pc.value_counts(table.column(name)).to_pylist():
                counts[name][entry["values"]] += entry["counts"]
    return counts


def _write_shards(
    folder: Path, gathering: Gathering, counts: Mapping[str, Counter[str]]
) -> tuple[list[dict[str, Any]], int]:
    """Shards, table and vectors in one go; returns what the manifest says of the shards, and digests of all pairs."""
    shards, digests = [], list[int]()
    table = _TableWriter(folder / TABLE, {name: sorted(counts[name]) for name in CODED})
    width = gathering.table(gathering.rows[:1]).column("image_vector").type.list_size
    with table, VectorWriter(folder / VECTORS_FILE, len(gathering), width) as vectors:

        def blocks(rows: Ints) -> Iterator[pa.Table]:
            for start in range(0, len(rows), GROUP_ROWS):
                block = gathering.table(rows[start : start + GROUP_ROWS])
                yield block.select(COLUMNS)
                vectors.write(*(_matrix(block.column(f"{name}_vector"), width) for name in ("image", "text")))
                table.write(block)
                digests.append(digest_of_pairs(block))

        for number, rows in enumerate(gathering.blocks(SHARD_ROWS)):
            path = folder / f"pairs-{number:05d}.parquet"
            shards.append(write_shard(path, blocks(rows), compression=_COMPRESSION, use_dictionary=list(CODED)))
    return shards, sum(digests)


_COMPRESSION = {name: "NONE" if name == "image" else "ZSTD" for name in COLUMNS}  # PNG is dense already


def _matrix(column: pa.ChunkedArray, width: int) -> Floats:
    """(n, D) of a column of vectors."""
    flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate(flat).reshape(-1, width)


class _TableWriter:
    """Every column but the images as an Arrow file, to be mapped; columns of few values as numbers and a dictionary."""

    def __init__(self, path: Path, words: Mapping[str, list[str]]) -> None:
        self._words = {name: pa.array(values, pa.string()) for name, values in words.items()}
        self._sink = pa.OSFile(str(path), "wb")
        self._file = pa.ipc.new_file(self._sink, TEXT_SCHEMA)
        self._waiting: list[pa.Table] = []

    def write(self, block: pa.Table) -> None:
        """The next rows; they are held until there are many."""
        self._waiting.append(block.select(TEXT_COLUMNS))
        if sum(map(len, self._waiting)) >= _TABLE_ROWS:
            self._flush()

    def __enter__(self) -> _TableWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
        self._file.close()
        self._sink.close()

    def _flush(self) -> None:
        if self._waiting:
            table = pa.concat_tables(self._waiting).combine_chunks()
            columns = [self._coded(name, table.column(name)) for name in TEXT_COLUMNS]
            self._file.write_batch(pa.record_batch(columns, schema=TEXT_SCHEMA))
            self._waiting = []

    def _coded(self, name: str, column: pa.ChunkedArray) -> pa.Array:
        array = column.combine_chunks()
        if name not in self._words:
            return array
        return pa.DictionaryArray.from_arrays(pc.index_in(array, self._words[name]), self._words[name])
