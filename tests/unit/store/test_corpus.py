"""The corpus on disk."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rag_diffusion.errors import DataError, LineageError
from rag_diffusion.files import file_hash, tree_hash
from rag_diffusion.store.corpus import Corpus, write_corpus
from rag_diffusion.store.shards import SCHEMA
from tests.tiny import draw, tiny_pairs


@pytest.fixture
def copy(tiny_corpus: Corpus, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_corpus.path, tmp_path / "corpus"))


def test_the_same_pairs_give_the_same_bytes(tmp_path: Path) -> None:
    pairs = tiny_pairs(16)
    for name, order in (("one", pairs), ("two", pairs[::-1])):
        write_corpus(tmp_path / name, order, image_size=16, facts={"rejected": []})
    assert tree_hash(tmp_path / "one") == tree_hash(tmp_path / "two")


def test_what_was_written_is_read(tiny_corpus: Corpus) -> None:
    assert len(tiny_corpus) == 420
    assert tiny_corpus.manifest["counts"]["split"]["test"] == 84
    row = tiny_corpus.row("tiny/noto/red-circle")
    expected = np.asarray(draw("circle", "red", 3))
    assert np.array_equal(tiny_corpus.pixels([row])[0], expected)
    assert tiny_corpus.pair("tiny/noto/red-circle").caption == "red circle, noto style"


def test_a_pair_id_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    pairs = tiny_pairs(16)
    with pytest.raises(DataError, match="pair ids that occur twice"):
        write_corpus(tmp_path / "corpus", [*pairs, pairs[0]], image_size=16, facts={"rejected": []})
    assert not (tmp_path / "corpus").exists()


def test_an_empty_corpus_is_refused_with_the_rejections(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pair at all.*empty caption"):
        write_corpus(
            tmp_path / "corpus",
            [],
            image_size=16,
            facts={"rejected": [{"what": "a", "reason": "empty caption"}]},
        )


@pytest.mark.parametrize(("content", "message"), [(b"", "got 0 bytes"), (b"PAR1", "truncated or was changed")])
def test_a_damaged_shard_is_refused(copy: Path, content: bytes, message: str) -> None:
    (copy / "pairs-00000.parquet").write_bytes(content)
    with pytest.raises(DataError, match=message):
        Corpus.open(copy)


def test_a_missing_corpus_names_the_stage(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run the stage `ingest`"):
        Corpus.open(tmp_path)


def test_an_unknown_pair_is_an_error_of_lineage(tiny_corpus: Corpus) -> None:
    with pytest.raises(LineageError, match="expected a pair 'nobody'"):
        tiny_corpus.row("nobody")


def test_shards_have_the_bytes_that_pyarrow_writes_of_their_pairs(tmp_path: Path) -> None:
    pairs = sorted(tiny_pairs(16), key=lambda pair: pair.pair_id)
    manifest = write_corpus(tmp_path / "corpus", pairs, image_size=16, facts={})
    table = pa.Table.from_pylist([vars(pair) for pair in pairs], schema=SCHEMA)
    pq.write_table(table, tmp_path / "theirs.parquet", compression="zstd")
    (shard,) = manifest["shards"]
    assert shard == {"name": "pairs-00000.parquet", "rows": 420, "sha256": file_hash(tmp_path / "theirs.parquet")}
    assert manifest["hash"] == hashlib.sha256(shard["sha256"].encode()).hexdigest()
