"""The pipeline's own corpus as the data set `corpus`: by reference, read-only, made by `dvc repro`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rag_diffusion.corpus.store import COLUMNS
from rag_diffusion.errors import DataError, LineageError
from rag_diffusion.knowledge.build import VECTORS, WORDS
from rag_diffusion.knowledge.data_set import DataSet, PairColumns, open_indexes
from rag_diffusion.knowledge.manifest import PIPELINE, Manifest
from rag_diffusion.knowledge.places import CORPUS_NAME
from rag_diffusion.knowledge.shards import Shards
from rag_diffusion.knowledge.vector_file import MappedVectors
from rag_diffusion.layout import CORPUS, INDEX
from rag_diffusion.layout import VECTORS as VECTORS_FOLDER
from rag_diffusion.retrieval.counts import TermCounts
from rag_diffusion.retrieval.recall import RECALL_FILE
from rag_diffusion.retrieval.vectors import STAMP_FILE, check_stamp

REMEDY = "run `dvc repro index`"


def corpus_manifest(root: Path) -> Manifest | None:
    """What the pipeline's corpus says of itself; None where no stage has made one.

    Raises:
        DataError: it is damaged.
    """
    path = root / CORPUS / "manifest.json"
    if not path.is_file():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return Manifest(
            name=CORPUS_NAME,
            form=PIPELINE,
            origin=str(raw.get("kind", "")),
            num_pairs=raw["num_pairs"],
            num_rejected=raw.get("num_rejected", 0),
            rejected_by_reason=raw.get("rejected_by_reason", {}),
            counts=raw["counts"],
            hash=raw["hash"],
            image_size=raw["image_size"],
            shards=raw["shards"],
            encoder_hash=str(_json(root / VECTORS_FOLDER / STAMP_FILE).get("encoder_hash", "")),
            recall=_json(root / INDEX / RECALL_FILE),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: expected the manifest of a corpus, got {error!r}; {REMEDY}") from None


def indexed(root: Path) -> bool:
    """Whether the pipeline has run up to `index`, or had."""
    return (root / INDEX / STAMP_FILE).is_file() and (root / VECTORS_FOLDER / STAMP_FILE).is_file()


def state(root: Path) -> tuple[int, ...]:
    """Changes with the corpus, its vectors or its index."""
    paths = (root / CORPUS / "manifest.json", root / VECTORS_FOLDER / STAMP_FILE, root / INDEX / STAMP_FILE)
    found = [path.stat() if path.is_file() else None for path in paths]
    return tuple(number for one in found if one for number in (one.st_ino, one.st_mtime_ns, one.st_size))


def open_corpus(root: Path, manifest: Manifest) -> DataSet:
    """Open the pipeline's corpus.

    Raises:
        DataError: an artifact is missing or damaged.
        LineageError: an artifact was made from another corpus, or with another encoder than the vectors.
    """
    check_stamp(root / VECTORS_FOLDER, manifest.hash, stage="embed")
    stamp = check_stamp(root / INDEX, manifest.hash, stage="index")
    if stamp.get("encoder_hash") != manifest.encoder_hash:
        raise LineageError(
            f"{root / INDEX}: expected an index of encoder {manifest.encoder_hash}, got one of encoder "
            f"{stamp.get('encoder_hash')}; {REMEDY}"
        )
    vectors = MappedVectors.open(root / VECTORS_FOLDER / VECTORS, manifest.num_pairs, remedy=REMEDY)
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


def _json(path: Path) -> dict[str, Any]:
    """A small file where it is there; whoever needs it says what is wrong with it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
