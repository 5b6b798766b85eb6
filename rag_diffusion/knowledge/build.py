"""Finished parts of a build into the files of a data set: sorted shards, table, vectors, words, indexes, report.

Memory does not grow with the number of pairs, but for their ids, the counts of their words, and an index that is not
`Flat`. The same pairs give the same bytes.

Shapes: n pairs, D width.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rag_diffusion.config import IndexConfig
from rag_diffusion.corpus.store import COLUMNS, SCHEMA, SHARD_ROWS
from rag_diffusion.errors import DataError
from rag_diffusion.files import file_hash
from rag_diffusion.knowledge.gather import Gathering
from rag_diffusion.knowledge.manifest import Manifest
from rag_diffusion.knowledge.records import Rejection
from rag_diffusion.knowledge.rejections import REJECTED
from rag_diffusion.knowledge.staging import Part
from rag_diffusion.knowledge.vector_file import MappedVectors, VectorWriter
from rag_diffusion.layout import RECALL_FILE
from rag_diffusion.retrieval.ann import Exhaustive, Nearest, VectorIndex
from rag_diffusion.retrieval.counts import TermCounts
from rag_diffusion.retrieval.recall import RECALL_QUERIES, check_recall, recall_report
from rag_diffusion.retrieval.retriever import IMAGE_INDEX, TEXT_INDEX

TABLE, VECTORS = "table.arrow", "vectors.safetensors"
INDEX_FILES = {"text_to_text": TEXT_INDEX, "text_to_image": IMAGE_INDEX}
EXACT = "Flat"
EXACT_BELOW = 4096  # pairs; so few are searched exhaustively, whatever `index.factory` says
GROUP_ROWS = 64  # pairs read at a time for one image
WORDS = ("source", "category", "style", "licence", "attribution", "split")  # columns of few distinct values
_COUNTED = ("split", "style", "category", "licence", "source")
_TABLE_ROWS = 65536  # rows of the table and captions held in memory at a time
_EXACT_QUERIES = 64  # of the report on an index that is exact by construction


def write_data_set(folder: Path, parts: list[Part], config: IndexConfig, facts: Manifest) -> Manifest:
    """Write everything but the manifest.

    Args:
        folder: empty.
        parts: of the build.
        config: which index, and what it must recall.
        facts: what is known of the data set before it is built.

    Returns:
        The whole manifest.

    Raises:
        DataError: no pair was taken.
        ConfigError: there is no such index, or it recalls too little; the report lies in the folder.
    """
    gathering = Gathering(parts)
    if not len(gathering):
        first = next((one for part in parts for one in part.rejected()), None)
        got = f"rejections alone, the first: {first.what}: {first.reason}" if first else "nothing at all"
        raise DataError(f"kb: expected pairs of images and captions for {facts.name!r}, got {got}")
    reasons = _write_rejected(folder / REJECTED, parts, gathering.twice)
    counts = _counts(gathering)
    shards = _write_pairs(folder, gathering, counts)
    _count_words(folder, len(gathering))
    report = build_indexes(folder, len(gathering), config)
    return Manifest(
        **asdict(facts)
        | {
            "num_pairs": len(gathering),
            "num_rejected": sum(reasons.values()),
            "rejected_by_reason": dict(sorted(reasons.items())),
            "counts": {name: dict(sorted(counts[name].items())) for name in _COUNTED},
            "hash": hashlib.sha256("".join(shard["sha256"] for shard in shards).encode()).hexdigest(),
            "shards": shards,
            "recall": report,
            "files": describe_files(folder),
        }
    )


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Length and sha256 of every file that is no shard."""
    files = sorted(path for path in folder.iterdir() if path.suffix != ".parquet")
    return {path.name: {"bytes": path.stat().st_size, "sha256": file_hash(path)} for path in files}


def build_indexes(folder: Path, rows: int, config: IndexConfig) -> dict[str, Any]:
    """Index the vectors of a folder and write the recall report; an exact search needs no file.

    Raises:
        ConfigError: there is no such index, or it recalls too little.
    """
    vectors = MappedVectors.open(folder / VECTORS, rows, remedy="build the data set again")
    exact = config.factory == EXACT or rows < EXACT_BELOW
    bases = {"text_to_text": vectors.text, "text_to_image": vectors.image}
    indexes: dict[str, tuple[Nearest, NDArray[np.float32]]] = {}
    for name, base in bases.items():
        index = Exhaustive(base) if exact else VectorIndex.build(base, config.factory)
        if isinstance(index, VectorIndex):
            index.save(folder / INDEX_FILES[name])
        indexes[name] = (index, base)
    report = recall_report(
        {name.removeprefix("text_to_"): found for name, found in indexes.items()},
        vectors.text,
        factory=EXACT if exact else config.factory,
        min_recall=config.min_recall,
        num_queries=_EXACT_QUERIES if exact else RECALL_QUERIES,
    )
    (folder / RECALL_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    check_recall(report)
    return report


def _write_rejected(path: Path, parts: Iterable[Part], twice: Iterable[str]) -> Counter[str]:
    """All rejections, one a line; returns the number of each reason."""
    reasons = Counter[str]()
    again = (Rejection(what=name, reason="name taken: an earlier pair has this id") for name in twice)
    with path.open("w", encoding="utf-8") as file:
        for one in chain(*(part.rejected() for part in parts), again):
            reasons[one.kind] += 1
            file.write(json.dumps(asdict(one), ensure_ascii=True) + "\n")
    return reasons


def _counts(gathering: Gathering) -> dict[str, Counter[str]]:
    """How often each value stands in each of the columns with few of them."""
    found = {name: Counter[str]() for name in WORDS}
    for rows in gathering.blocks(_TABLE_ROWS):
        table = gathering.table(rows, WORDS)
        for name in WORDS:
            for entry in pc.value_counts(table.column(name)).to_pylist():
                found[name][entry["values"]] += entry["counts"]
    return found


def _write_pairs(folder: Path, gathering: Gathering, counts: Mapping[str, Counter[str]]) -> list[dict[str, Any]]:
    """Shards, table and vectors in one go; returns what the manifest says of the shards."""
    shards = []
    table = _TableWriter(folder / TABLE, {name: sorted(counts[name]) for name in WORDS})
    width = gathering.table(gathering.rows[:1]).column("image_vector").type.list_size
    with table, VectorWriter(folder / VECTORS, len(gathering), width) as vectors:
        for number, shard in enumerate(gathering.blocks(SHARD_ROWS)):
            path = folder / f"pairs-{number:05d}.parquet"
            with pq.ParquetWriter(path, SCHEMA, compression=_COMPRESSION, use_dictionary=list(WORDS)) as writer:
                for start in range(0, len(shard), GROUP_ROWS):
                    block = gathering.table(shard[start : start + GROUP_ROWS])
                    writer.write_table(block.select(COLUMNS), row_group_size=GROUP_ROWS)
                    vectors.write(*(_matrix(block.column(f"{name}_vector"), width) for name in ("image", "text")))
                    table.write(block)
            size = path.stat().st_size
            shards.append({"name": path.name, "rows": len(shard), "bytes": size, "sha256": file_hash(path)})
    return shards


_COMPRESSION = {name: "NONE" if name == "image" else "ZSTD" for name in COLUMNS}  # PNG is dense already


def _matrix(column: pa.ChunkedArray, width: int) -> NDArray[np.float32]:
    """(n, D) of a column of vectors."""
    flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate(flat).reshape(-1, width)


class _TableWriter:
    """Every column but the images as an Arrow file, to be mapped; columns of few values as numbers and a dictionary."""

    def __init__(self, path: Path, words: Mapping[str, list[str]]) -> None:
        self._words = {name: pa.array(values, pa.string()) for name, values in words.items()}
        self._names = [name for name in COLUMNS if name not in ("image", "original")]
        coded = pa.dictionary(pa.int32(), pa.string())
        self._schema = pa.schema([(name, coded if name in words else pa.string()) for name in self._names])
        self._sink = pa.OSFile(str(path), "wb")
        self._file = pa.ipc.new_file(self._sink, self._schema)
        self._waiting: list[pa.Table] = []

    def write(self, block: pa.Table) -> None:
        """The next rows; they are held until there are many."""
        self._waiting.append(block.select(self._names))
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
            columns = [self._coded(name, table.column(name)) for name in self._names]
            self._file.write_batch(pa.record_batch(columns, schema=self._schema))
            self._waiting = []

    def _coded(self, name: str, column: pa.ChunkedArray) -> pa.Array:
        array = column.combine_chunks()
        if name not in self._words:
            return array
        return pa.DictionaryArray.from_arrays(pc.index_in(array, self._words[name]), self._words[name])


def _count_words(folder: Path, rows: int) -> None:
    """Count the words of the captions, a stretch of the table after the other."""
    with pa.memory_map(str(folder / TABLE)) as source:
        file = pa.ipc.open_file(source)
        counted = [
            TermCounts.of(_texts(file.get_batch(number).column("caption")), needs_words=False)
            for number in range(file.num_record_batches)
        ]
    TermCounts.merged(counted).save(folder)


def _texts(column: pa.Array) -> Iterator[str]:
    for value in column:
        yield value.as_py()
