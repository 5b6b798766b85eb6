"""Which index suits so many vectors."""

from __future__ import annotations

import pytest

from rag_diffusion.config import Config
from rag_diffusion.errors import ConfigError
from rag_diffusion.retrieval.factories import Factory, choices, leaves_of, shards_for


def test_auto_chooses_by_size_width_memory_and_recall() -> None:
    def chosen(rows: int, width: int = 512, memory: float = 8, min_recall: float = 0.95) -> list[str]:
        return choices("auto", rows, width, memory=memory, min_recall=min_recall)

    assert chosen(19_999) == ["Flat"]
    assert chosen(30_000) == ["HNSW32", "IVF128,PQ256x4fsr,RMapped", "Flat"]
    assert chosen(30_000, memory=0.1) == ["IVF128,PQ256x4fsr,RMapped", "Flat"]  # a graph holds the vectors
    assert chosen(100_000) == ["IVF256,PQ256x4fsr,RMapped", "Flat"]
    assert chosen(10**6) == ["IVF1024,PQ256x4fsr,RMapped", "Flat"]
    assert chosen(10**6, memory=0.2) == ["IVF1024,PQ128x4fsr,RMapped", "Flat"]  # coarser codes, more candidates
    assert chosen(10**7, width=256)[0] == "IVF4096,PQ128x4fsr,RMapped"
    assert chosen(10**7, memory=0.1) == ["Flat"]
    assert chosen(10**6, min_recall=1.0) == ["Flat"]
    assert chosen(10**6, width=37)[0] == "IVF1024,PQ37x4fsr,RMapped"
    assert choices("auto", 50_000, 64, memory=0, min_recall=0.98)[-1] == "Flat"


def test_a_factory_by_hand_stays() -> None:
    assert choices("OPQ16,IVF64,PQ16", 10_000, 64, memory=0, min_recall=0.98) == ["OPQ16,IVF64,PQ16"]
    assert choices("OPQ16,IVF64,PQ16", 4_000, 64, memory=0, min_recall=0.98) == ["Flat"]


def test_a_shard_of_a_segment_is_one_that_has_an_index(default_config: Config) -> None:
    def shards(rows: int, **index: object) -> int:
        return shards_for(default_config.index.model_copy(update={"shards": 3, **index}), rows)

    assert [shards(rows) for rows in (1, 39_999, 40_000, 10**6)] == [1, 1, 2, 3]
    assert [shards(rows, factory="IVF8,Flat") for rows in (1, 8_191, 8_192, 10**6)] == [1, 1, 2, 3]
    assert shards(10**6, shards=1) == 1


def test_words_of_ours_are_told_from_those_of_faiss() -> None:
    assert Factory.parse("IVF8,PQ4x4fsr,RMapped") == Factory(library="faiss", coarse="IVF8,PQ4x4fsr", rescored=True)
    assert Factory.parse("PQ4x4fs,RFlat") == Factory(library="faiss", coarse="PQ4x4fs,RFlat", rescored=False)
    assert leaves_of(Factory.parse("ScaNN"), 10_000) == 100
    assert leaves_of(Factory.parse("ScaNN64"), 10_000) == 64
    with pytest.raises(ConfigError, match="ScaNN with 1 to 10 leaves for so many vectors, got 64"):
        leaves_of(Factory.parse("ScaNN64"), 10)
