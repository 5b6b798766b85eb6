"""What searching needs beside pairs and vectors: faiss indexes, counts of the captions' words, a recall report.

Memory does not grow with the number of pairs, but for the counts of their words and an index that is not `Flat`.

Shapes: n pairs, D width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from rag_diffusion.arrays import Floats
from rag_diffusion.config import IndexConfig
from rag_diffusion.errors import LineageError
from rag_diffusion.layout import RECALL_FILE
from rag_diffusion.retrieval.ann import Exhaustive, Nearest, VectorIndex
from rag_diffusion.retrieval.counts import TermCounts
from rag_diffusion.retrieval.recall import RECALL_QUERIES, check_recall, recall_report
from rag_diffusion.store.build import TABLE
from rag_diffusion.store.vectors import VECTORS_FILE, Vectors

IMAGE_INDEX, TEXT_INDEX = "image.index", "text.index"
INDEX_FILES = {"text_to_text": TEXT_INDEX, "text_to_image": IMAGE_INDEX}
EXACT = "Flat"
EXACT_BELOW = 4096  # pairs; so few are searched exhaustively, whatever `index.factory` says
_EXACT_QUERIES = 64  # of the report on an index that is exact by construction


def build_indexes(folder: Path, rows: int, config: IndexConfig) -> dict[str, Any]:
    """Index the vectors of a folder and write the recall report; an exact search needs no file.

    Raises:
        ConfigError: there is no such index, or it recalls too little.
    """
    vectors = Vectors.open(folder / VECTORS_FILE, rows, remedy="build the data set again")
    exact = config.factory == EXACT or rows < EXACT_BELOW
    bases = {"text_to_text": vectors.text, "text_to_image": vectors.image}
    indexes: dict[str, tuple[Nearest, Floats]] = {}
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


def open_indexes(folder: Path, vectors: Vectors, factory: str, remedy: str) -> dict[str, Nearest]:
    """The indexes of a folder; an exact one is the vectors themselves.

    Raises:
        DataError: one is missing or damaged.
        LineageError: one is of other vectors.
    """
    bases = {"text_to_text": vectors.text, "text_to_image": vectors.image}
    if factory == EXACT:
        return {name: Exhaustive(base) for name, base in bases.items()}
    found: dict[str, Nearest] = {}
    for name, base in bases.items():
        index = VectorIndex.load(folder / INDEX_FILES[name], remedy=remedy)
        if (len(index), index.width) != base.shape:
            raise LineageError(
                f"{folder / INDEX_FILES[name]}: expected an index of {len(base)} vectors of width {base.shape[1]}, "
                f"got one of {len(index)} and {index.width}; {remedy}"
            )
        found[name] = index
    return found


def count_words(folder: Path) -> None:
    """Count the words of the captions, a stretch of the table after the other."""
    with pa.memory_map(str(folder / TABLE)) as source:
        file = pa.ipc.open_file(source)
        counted = [
            TermCounts.from_texts(_texts(file.get_batch(number).column("caption")), needs_words=False)
            for number in range(file.num_record_batches)
        ]
    TermCounts.merged(counted).save(folder)


def _texts(column: pa.Array) -> Iterator[str]:
    for value in column:
        yield value.as_py()
