"""A shard that is served: found by what its segment holds, wherever that lies now, in a process without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rag_diffusion.engine.work import EVERY_SOURCE
from rag_diffusion.errors import LineageError
from rag_diffusion.files import code_hash
from rag_diffusion.knowledge import writer
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.retrieval import factories
from rag_diffusion.serving.index_shard import IndexShard, ServedShard, served_shards
from tests.unit.knowledge.bases import TinyEncoder, items, make_base

TEXT = "a gray key"
CODE = code_hash(EVERY_SOURCE)


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KnowledgeBase:
    """A data set of two segments, the first in three shards, and one whose index finds few."""
    monkeypatch.setattr(writer, "SEALED", 8)
    monkeypatch.setattr(factories, "EXACT_BELOW", 20)
    base = make_base(tmp_path, index={"factory": "Flat", "shards": 3})
    base.insert("mine", items(range(60)))
    base.insert("mine", items(range(60, 70)))
    few = make_base(tmp_path, index={"factory": "IVF8,Flat", "min_recall": 0.0})
    few.add("few", items(range(40, 80)))
    return base


def searched(base: KnowledgeBase, served: ServedShard, similarity: str) -> list[tuple[str, float, str]]:
    """By the shard's own process, as it were."""
    return IndexShard(served, CODE).search(similarity, base.encoder.texts([TEXT]), 100)


@pytest.mark.parametrize("similarity", ["text_to_text", "text_to_image"])
def test_shards_of_all_data_sets_find_every_pair_once_and_tell_of_it(base: KnowledgeBase, similarity: str) -> None:
    served = served_shards(base.catalogue)
    names = [one.name for one in served]
    assert names == ["few", *(f"mine/s00001/shard-0000{number}" for number in range(3)), "mine/s00002"]
    found = {one.name: searched(base, one, similarity) for one in served}
    assert [len(hits) for hits in found.values()][1:] == [20, 20, 20, 10]
    assert 0 < len(found["few"]) < 40, "one list of eight"
    retriever = base.retriever()
    vectors = retriever.vectors.text if similarity == "text_to_text" else retriever.vectors.image
    for name, hits in found.items():
        ids, scores, captions = zip(*hits, strict=True)
        rows = retriever.corpus.rows(ids)
        assert all(pair_id.startswith(f"{name.partition('/')[0]}/") for pair_id in ids)
        assert list(captions) == retriever.corpus.cells("caption", rows)
        assert list(scores) == sorted(scores, reverse=True)
        assert scores == pytest.approx((vectors[rows] @ base.encoder.texts([TEXT])[0]).tolist(), abs=1e-6)
    mine = [pair_id for name, hits in found.items() if name != "few" for pair_id, _, _ in hits]
    assert sorted(mine) == [f"mine/{number:05d}.png" for number in range(70)]


def test_a_segment_is_found_where_an_insertion_has_moved_it_until_it_is_merged(base: KnowledgeBase) -> None:
    served = served_shards(base.catalogue)
    before = [searched(base, one, "text_to_text") for one in served]
    base.insert("mine", items(range(100, 110)))
    assert [searched(base, one, "text_to_text") for one in served] == before
    base.writer.merger.merge("mine", everything=True)
    assert searched(base, served[0], "text_to_text") == before[0]
    for one in served[1:]:
        with pytest.raises(LineageError, match="of 'mine' as served, got others: they were merged, replaced or remov"):
            IndexShard(one, CODE)
    assert {one.name for one in served_shards(base.catalogue)} == {"few", *(f"mine/shard-0000{i}" for i in range(3))}


def test_vectors_of_another_encoder_and_another_version_of_the_library_are_refused(base: KnowledgeBase) -> None:
    with pytest.raises(LineageError, match="rebuild"):
        served_shards(make_base(base.root, TinyEncoder("other")).catalogue)
    with pytest.raises(LineageError, match="got another version"):
        IndexShard(served_shards(base.catalogue)[0], "another")


def test_its_process_needs_no_torch() -> None:
    code = "import sys, rag_diffusion.serving.index_shard; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
