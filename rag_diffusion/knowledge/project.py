"""The pipeline's own corpus as the data set `corpus`: by reference, read-only, made by `dvc repro`."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rag_diffusion.errors import DataError, LineageError
from rag_diffusion.knowledge.pipeline_corpus import REMEDY
from rag_diffusion.layout import CORPUS, INDEX, VECTORS
from rag_diffusion.retrieval.counts import TermCounts
from rag_diffusion.retrieval.data_set import DataSet, PairColumns
from rag_diffusion.retrieval.indexes import open_indexes
from rag_diffusion.store.build import WORDS
from rag_diffusion.store.corpus import COLUMNS
from rag_diffusion.store.manifest import Manifest
from rag_diffusion.store.shards import Shards
from rag_diffusion.store.stamps import check_stamp
from rag_diffusion.store.vectors import VECTORS_FILE, Vectors


def open_corpus(root: Path, manifest: Manifest) -> DataSet:
    """Open the pipeline's corpus.

    Raises:
        DataError: an artifact is missing or damaged.
        LineageError: an artifact was made from another corpus, or with another encoder than the vectors.
    """
    check_stamp(root / VECTORS, manifest.hash, stage="embed")
    stamp = check_stamp(root / INDEX, manifest.hash, stage="index")
    if stamp.get("encoder_hash") != manifest.encoder_hash:
        raise LineageError(
            f"{root / INDEX}: expected an index of encoder {manifest.encoder_hash}, got one of encoder "
            f"{stamp.get('encoder_hash')}; {REMEDY}"
        )
    vectors = Vectors.open(root / VECTORS / VECTORS_FILE, manifest.num_pairs, remedy=REMEDY)
    return DataSet(
        manifest=manifest,
        columns=PairColumns(_columns(root / CORPUS, manifest)),
        shards=Shards(root / CORPUS, manifest.shards, remedy=REMEDY),
        vectors=vectors,
        indexes=open_indexes(root / INDEX, vectors, str(stamp.get("factory")), REMEDY),
        counts=TermCounts.load(root / INDEX),
    )


def _columns(folder: Path, manifest: Manifest) -> pa.Table:
    names = [name for name in COLUMNS if name not in ("image", "original")]
    coded = pa.dictionary(pa.int32(), pa.string())
    schema = pa.schema([(name, coded if name in WORDS else pa.string()) for name in names])
    try:
        tables = [
            pq.read_table(folder / shard["name"], columns=names, read_dictionary=list(WORDS)).cast(schema)
            for shard in manifest.shards
        ]
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{folder}: expected shards of pairs, got {error}; {REMEDY}") from None
    return pa.concat_tables(tables)
