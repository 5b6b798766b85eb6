"""Neighbors that are retrieved, that change over the steps, and that are found again by what the image looks like."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rag_diffusion.config import load_config
from rag_diffusion.errors import ConfigError
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_batch import Neighbor, neighbors_from
from rag_diffusion.retrieval.query import Query
from rag_diffusion.retrieval.query_vectors import QueryVectors
from rag_diffusion.retrieval.retriever import Retriever
from rag_diffusion.sampling.neighbor_cache import NeighborCache
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.schedule import Phase, RetrievalSchedule
from rag_diffusion.sampling.seeds import seeded
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.types import Hits
from tests.unit.sampling.prompts import with_roles

PROMPT = "red circle, noto style"


@pytest.fixture
def pipeline(tiny_generator: Generator, retriever: Retriever) -> RetrievalPipeline:
    pipeline = RetrievalPipeline(tiny_generator, retriever)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run(pipeline: RetrievalPipeline, *args: Any, **kwargs: Any) -> Any:
    return pipeline(PROMPT, *args, num_inference_steps=4, generator=seeded([1]), output_type="latent", **kwargs)


def test_neighbors_are_retrieved_with_their_scores(pipeline: RetrievalPipeline, retriever: Retriever) -> None:
    found = run(pipeline, num_neighbors=2)
    hits = retriever.search(Query([PROMPT], top_k=2)).hits[0]
    sources = found.provenance[0].neighbors
    assert tuple(source.pair_id for source in sources) == hits.pair_ids
    assert tuple(source.score for source in sources) == hits.scores
    assert found.provenance[0].corpus_hash == retriever.corpus.hash
    given = [neighbors_from(retriever.corpus, hits.pair_ids)]
    assert torch.equal(found.images, run(pipeline, given).images)


def test_a_weak_match_is_trouble_of_its_own_image(pipeline: RetrievalPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def weak(retriever: Retriever, query: str, hits: Any) -> str:
        return "nothing here is much like it" if query == "a cheetah" else ""

    monkeypatch.setattr("rag_diffusion.retrieval.results.weak_match", weak)
    found = pipeline([PROMPT, "a cheetah"], num_inference_steps=1, num_images_per_prompt=2).provenance
    told = [one.settings.get("trouble") for one in found]
    assert told == [None, None, ["nothing here is much like it"], ["nothing here is much like it"]]


def test_excluded_pairs_condition_nothing(pipeline: RetrievalPipeline) -> None:
    first = run(pipeline, num_neighbors=1).provenance[0].neighbors[0].pair_id
    other = run(pipeline, num_neighbors=1, exclude=[[first]]).provenance[0].neighbors[0].pair_id
    assert other != first


def test_phases_follow_the_shares() -> None:
    schedule = RetrievalSchedule(counts=((0.0, 3), (0.5, 1)), query_again=(0.25,))
    assert schedule.phases(20) == [
        Phase(start=0, count=3, query=False),
        Phase(start=5, count=3, query=True),
        Phase(start=10, count=1, query=False),
    ]
    assert RetrievalSchedule().phases(20) == [Phase(start=0, count=None, query=False)]
    assert schedule.most(2) == 3
    late = RetrievalSchedule(counts=((0.99, 0),), query_again=(0.01,))
    assert [(phase.start, phase.count, phase.query) for phase in late.phases(20, 4)] == [
        (0, 4, False), (1, 4, True), (19, 0, False)
    ]  # fmt: skip


def test_the_schedule_may_ask_for_more_than_the_call(pipeline: RetrievalPipeline) -> None:
    more = RetrievalSchedule(counts=((0.5, 4),))
    assert len(run(pipeline, num_neighbors=2, retrieval_schedule=more).provenance[0].neighbors) == 4
    assert len(run(pipeline, num_neighbors=0, retrieval_schedule=more).provenance[0].neighbors) == 4


def test_a_constant_schedule_is_none_at_all(pipeline: RetrievalPipeline) -> None:
    plain = run(pipeline, num_neighbors=2).images
    constant = RetrievalSchedule(counts=((0.0, 2), (0.5, 2)))
    assert torch.equal(plain, run(pipeline, num_neighbors=2, retrieval_schedule=constant).images)


def test_neighbors_left_out_in_the_end_are_seen_half_of_the_time(pipeline: RetrievalPipeline) -> None:
    whole = run(pipeline, num_neighbors=2).provenance[0]
    half = RetrievalSchedule(counts=((0.0, 2), (0.5, 0)))
    found = run(pipeline, num_neighbors=2, retrieval_schedule=half).provenance[0]
    assert found.null_attention > 0.5
    assert found.null_attention + sum(one.attention for one in found.neighbors) == pytest.approx(1, abs=1e-4)
    assert all(0 < a.attention < b.attention for a, b in zip(found.neighbors, whole.neighbors, strict=True))


def test_each_pair_is_encoded_once_whatever_the_schedule(
    pipeline: RetrievalPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    encode = NeighborCache._encode

    def note(self: NeighborCache, new: list[Neighbor]) -> None:
        encoded.extend(one.name for one in new)
        encode(self, new)

    monkeypatch.setattr(NeighborCache, "_encode", note)
    schedule = RetrievalSchedule(counts=((0.0, 1), (0.25, 3), (0.5, 2), (0.75, 3)), query_again=(0.5,))
    found = run(pipeline, retrieval_schedule=schedule)
    assert len(encoded) == len(set(encoded))
    assert set(encoded) == {one.pair_id for one in found.provenance[0].neighbors}


def test_a_query_by_the_image_so_far_finds_what_looks_like_it(
    pipeline: RetrievalPipeline, retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[np.ndarray] = []
    find = retriever.find

    def note(query: Query) -> list[Hits]:
        if query.images is not None:
            asked.append(query.images)
        return find(query)

    monkeypatch.setattr(retriever, "find", note)
    schedule = RetrievalSchedule(query_again=(0.5,), image_weight=1.0)
    found = run(pipeline, num_neighbors=1, retrieval_schedule=schedule).provenance[0]
    assert len(asked) == 1
    assert asked[0].shape == (1, 64, 64, 3)
    nearest = retriever.search(Query([PROMPT], top_k=1, images=asked[0], image_weight=1.0)).hits[0]
    assert found.neighbors[-1].pair_id == nearest.pair_ids[0]
    vectors = retriever.vectors.image @ retriever.image_vectors(asked[0])[0]
    assert nearest.pair_ids[0] == retriever.corpus.table["pair_id"].iloc[int(vectors.argmax())]


def test_images_and_texts_share_the_score(retriever: Retriever) -> None:
    stairs = retriever.corpus.pixels(retriever.corpus.rows(["tiny/openmoji/orange-stairs"]))
    by_text = retriever.search(Query([PROMPT], top_k=1, images=stairs, image_weight=0.0)).hits[0]
    by_image = retriever.search(Query([PROMPT], top_k=1, images=stairs, image_weight=1.0)).hits[0]
    assert by_text.pair_ids == retriever.search(Query([PROMPT], top_k=1)).hits[0].pair_ids
    assert by_image.pair_ids == ("tiny/openmoji/orange-stairs",)
    with pytest.raises(ValueError, match="expected a share from 0 to 1, got 2"):
        retriever.search(Query([PROMPT], top_k=1, images=stairs, image_weight=2))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"counts": ((1.0, 3),)}, r"expected shares of the steps in \[0, 1\).* got \[1.0\]"),
        ({"query_again": (0.0,)}, "above 0 for query_again"),
        ({"counts": ((0.0, 1.5),)}, "expected whole numbers"),
        ({"image_weight": 2.0}, "expected a share from 0 to 1, got 2.0"),
        ({"counts": ((0.0, -1),)}, "expected whole numbers of at least 0"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RetrievalSchedule(**wrong)


def test_looking_again_needs_a_retriever(pipeline: RetrievalPipeline, tiny_corpus: Corpus) -> None:
    given = neighbors_from(tiny_corpus, ["tiny/noto/red-circle"])
    with pytest.raises(ValueError, match="expected a retriever and no neighbors by hand"):
        run(pipeline, given, retrieval_schedule=RetrievalSchedule(query_again=(0.5,)))
    with pytest.raises(ValueError, match="exclude: expected None with neighbors given by hand"):
        run(pipeline, given, exclude=[["a"]])
    with pytest.raises(ValueError, match="exclude: expected a collection of pair ids for each of 1 prompts"):
        run(pipeline, exclude=["tiny/noto/red-circle"])
    with pytest.raises(ValueError, match="expected a text to retrieve with, got an empty one at"):
        pipeline("")


def test_lists_by_hand_change_over_the_steps(pipeline: RetrievalPipeline, tiny_corpus: Corpus) -> None:
    names = ["tiny/noto/red-circle", "tiny/noto/blue-square", "tiny/twemoji/red-circle"]
    given = neighbors_from(tiny_corpus, names)
    schedule = RetrievalSchedule(shown=((0, (0, 1)), (0.5, (2, 7))))
    assert schedule.phases(4) == [
        Phase(start=0, count=None, query=False, places=(0, 1)),
        Phase(start=2, count=None, query=False, places=(2, 7)),
    ]
    found = run(pipeline, [given], retrieval_schedule=schedule)
    phases = found.provenance[0].phases
    assert [(phase.start, phase.pair_ids) for phase in phases] == [(0, tuple(names[:2])), (2, (names[2],))]
    assert not torch.equal(found.images, run(pipeline, [given]).images)
    with pytest.raises(ValueError, match=r"expected whole numbers of at least 0, got \[-1\]"):
        RetrievalSchedule(shown=((0, (-1,)),))
    with pytest.raises(ValueError, match=r"expected shares of the steps in \[0, 1\)"):
        RetrievalSchedule(shown=((1, (0,)),))


def test_params_yaml_says_the_schedule(project_root: Path) -> None:
    config = load_config(
        project_root / "params.yaml",
        {"retrieval.schedule.counts": "[[0, 3], [0.7, 0]]", "retrieval.schedule.shown": "[[0.5, [2]]]"},
    )
    schedule = RetrievalSchedule.from_config(config.retrieval.schedule)
    assert schedule == RetrievalSchedule(counts=((0, 3), (0.7, 0)), shown=((0.5, (2,)),))
    with pytest.raises(ConfigError, match=r"retrieval.schedule.counts.0"):
        load_config(project_root / "params.yaml", {"retrieval.schedule.counts": "[[0.7, 1.5]]"})


def test_a_text_runs_through_the_tower_once_also_for_style_neighbors_and_later_steps(
    tiny_generator: Generator, retriever: Retriever
) -> None:
    read: list[str] = []

    def embed(texts: Any) -> Any:
        read.extend(texts)
        return retriever.embed(texts)

    counted = copy(retriever)
    counted.embed = QueryVectors(embed)
    pipe = RetrievalPipeline(with_roles(tiny_generator), counted)
    pipe.set_progress_bar_config(disable=True)
    run(
        pipe,
        num_neighbors=2,
        num_style_neighbors=1,
        num_images_per_prompt=1,
        retrieval_schedule=RetrievalSchedule(query_again=(0.25, 0.5)),
    )
    assert read == [PROMPT]


def test_the_vectors_asked_for_last_are_kept() -> None:
    read: list[str] = []

    def embed(texts: Any) -> Any:
        read.extend(texts)
        return np.array([[float(len(text))] for text in texts], dtype=np.float32)

    vectors = QueryVectors(embed, kept=2)
    assert vectors(["a", "bb", "a"]).tolist() == [[1.0], [2.0], [1.0]]
    assert vectors(["a", "ccc"]).tolist() == [[1.0], [3.0]]  # bb was asked for before a
    assert vectors(["bb"]).tolist() == [[2.0]]
    assert read == ["a", "bb", "ccc", "bb"]
