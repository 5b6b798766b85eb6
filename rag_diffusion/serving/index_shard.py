"""One shard of the pipeline's index in a process of its own, which needs no torch. Ray Serve starts it.

Shapes: Q queries, D width, k hits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rag_diffusion.arrays import Floats, Ints
from rag_diffusion.engine.work import check_code
from rag_diffusion.layout import INDEX
from rag_diffusion.retrieval.index_shards import open_shard, vectors_folder
from rag_diffusion.store.stamps import check_stamp
from rag_diffusion.store.vectors import VECTORS_FILE, Vectors

REMEDY = "run the stage `index` again"


class IndexShard:
    """Searches one shard.

    Args:
        root: the project, on every machine.
        shard: one of `shards_of`.
        rows: of all shards.
        corpus_hash: of the corpus that the index must be of.
        code: see `check_code`.

    Raises:
        DataError: the shard is missing or damaged.
        LineageError: this machine has another index or version of the library.
    """

    def __init__(self, root: Path, shard: Mapping[str, Any], rows: int, corpus_hash: str, code: str) -> None:
        check_code(code)
        stamp = check_stamp(root / INDEX, corpus_hash, stage="index")
        vectors = Vectors.open(vectors_folder(root, stamp) / VECTORS_FILE, rows, remedy=REMEDY)
        self._indexes = open_shard(root / INDEX, vectors, shard, REMEDY)

    def search(self, similarity: str, queries: Floats, k: int) -> tuple[Floats, Ints]:
        """Best hits of every query in this shard.

        Args:
            similarity: `text_to_text` or `text_to_image`.
            queries: (Q, D) unit vectors.
            k: hits asked for.

        Returns:
            Scores and rows of the shard, see `VectorIndex.search`.
        """
        return self._indexes[similarity].search(queries, k)
