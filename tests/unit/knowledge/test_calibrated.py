"""A knowledge base of one's own, calibrated over all its data sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.layout import KB_CALIBRATION
from rag_diffusion.readers.records import Item
from rag_diffusion.retrieval.calibration import UNCALIBRATED
from rag_diffusion.retrieval.query import Query
from tests.unit.knowledge.bases import COLORS, TinyEncoder, items, make_base, picture

NAMES = [
    f"{first}{last}" for first in ("bar", "cor", "dun", "fel", "gim", "hol") for last in ("ta", "mo", "li", "su", "ne")
]


def named(start: int, count: int) -> list[Item]:
    """Pictures of things with names of their own, four of each."""
    return [
        Item(
            name=f"{number:05d}.png",
            image=picture(10_000 + number),
            caption=f"a {COLORS[number % 8]} {NAMES[number // 4 % 30]}",
            label=NAMES[number // 4 % 30],
            split="train",
        )
        for number in range(start, start + count)
    ]


@pytest.fixture
def base(tmp_path: Path) -> KnowledgeBase:
    made = make_base(tmp_path)
    made.add("first", named(0, 60), licence="CC0-1.0")
    made.add("second", named(60, 60), licence="CC0-1.0")
    return made


def test_before_it_is_calibrated_everything_comes_and_after_it_what_is_there_alone(base: KnowledgeBase) -> None:
    query = Query(["a red barta", "a red zebra"], top_k=2)
    assert base.calibration.reason == UNCALIBRATED
    assert [len(hits.pair_ids) for hits in base.search(query).hits] == [2, 2]
    calibration = base.calibrate()
    assert calibration.fitted
    assert calibration.num_families == 30
    results = base.search(query)  # the retriever that was open is opened again
    assert [len(hits.pair_ids) for hits in results.hits] == [2, 0]
    assert all("barta" in base.corpus.pair(name).caption for name in results.hits[0].pair_ids)
    assert "no pair shows 'a red zebra'" in results.weak_match(1)
    again = KnowledgeBase(base.root, base.config, base.encoder)
    assert again.calibration == base.calibration == calibration
    assert again.search(query).hits == results.hits


def test_another_encoder_makes_it_void(base: KnowledgeBase) -> None:
    base.calibrate()
    other = KnowledgeBase(base.root, base.config, TinyEncoder("other"))
    assert not other.calibration.fitted
    assert "of another encoder" in other.calibration.reason


def test_too_few_things_are_told_and_nothing_is_kept(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    base.add("few", items(range(40)))
    found = base.calibrate()
    assert found.reason == "scores are not calibrated: expected things of at least 20 families, got 10"
    assert not (base.root / KB_CALIBRATION).exists()
    assert len(base.search(Query(["a quokka"], top_k=3)).hits[0].pair_ids) == 3
