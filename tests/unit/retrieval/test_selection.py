from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rag_diffusion.retrieval.ann import VectorIndex
from rag_diffusion.retrieval.exclude import NearDuplicates
from rag_diffusion.retrieval.method import Method
from rag_diffusion.retrieval.query import Query
from rag_diffusion.retrieval.retriever import Retriever
from rag_diffusion.retrieval.selection import MOST, Selection, Thresholds, diverse
from rag_diffusion.store.corpus import Corpus
from tests.unit.retrieval.made import WEIGHTS, make_retriever

QUERY = ["red square, noto style"]


@pytest.mark.parametrize(
    ("kind", "threshold", "count"),
    [("top_k", 0.9, 3), ("threshold", 0.4, 4), ("both", 0.4, 3), ("both", 0.8, 2), ("threshold", 1.5, 0)],
)
def test_numbers_of_hits_by_hand(kind: str, threshold: float, count: int) -> None:
    scores = np.array([1.0, 0.8, 0.5, 0.4, 0.1])
    passing = Thresholds(score=threshold).passing(scores, {}, 1.0, None)
    chosen = Selection(kind=kind).choose(scores, None, 3, passing)  # type: ignore[arg-type]
    np.testing.assert_array_equal(chosen, np.arange(count))


def test_each_similarity_has_an_absolute_threshold_of_its_own() -> None:
    scores, raw = (
        np.array([1.0, 0.8, 0.5]),
        {"bm25": np.array([9.0, 3.0, 6.0]), "text_to_text": np.array([0.1, 0.9, 0.8])},
    )

    def places(probabilities: list[float] | None = None, information: float = 10.0, **least: float) -> list[int]:
        told = None if probabilities is None else np.asarray(probabilities)
        return np.flatnonzero(Thresholds(**least).passing(scores, raw, information, told)).tolist()

    assert places() == [0, 1, 2]
    assert places(bm25=0.5) == [0, 2]
    assert places(bm25=0.5, information=20.0) == []
    assert places(text_to_text=0.8) == [1, 2]
    assert places(text_to_text=0.8, bm25=0.5) == [2]
    assert places(tf_idf=0.5) == [0, 1, 2]  # of a retriever that has none
    assert places([0.2, 0.7], probability=0.5) == [1]  # the third was not judged
    assert places(probability=0.5) == [0, 1, 2]  # nothing is calibrated


def test_the_first_of_those_that_pass_need_not_be_the_first() -> None:
    passing = np.array([False, True, False, True, True])
    scores = np.linspace(1, 0.6, 5)
    assert Selection(kind="both").choose(scores, None, 2, passing).tolist() == [1, 3]
    assert Selection(kind="threshold", max_neighbors=16).choose(scores, None, 2, passing).tolist() == [1, 3, 4]
    assert Selection(kind="top_k").choose(scores, None, 2, passing).tolist() == [0, 1]
    vectors = np.eye(5, dtype=np.float32)
    assert Selection(kind="both", diversity=0.5).choose(scores, vectors, 3, passing).tolist() == [1, 3, 4]


def test_a_threshold_alone_lets_no_flood_through() -> None:
    scores, every = np.ones(100), np.ones(100, dtype=bool)
    assert len(Selection(kind="threshold").choose(scores, None, 3, every)) == MOST
    assert len(Selection(kind="threshold", max_neighbors=5).choose(scores, None, 3, every)) == 5
    assert len(Selection(kind="threshold").choose(scores, None, 3)) == 3  # where no threshold is asked for


def naive_mmr(scores: list[float], vectors: np.ndarray, count: int, diversity: float) -> list[int]:
    taken: list[int] = []
    while len(taken) < count:
        worth = {
            i: (1 - diversity) * scores[i] - diversity * max((float(vectors[i] @ vectors[j]) for j in taken), default=0)
            for i in range(len(scores))
            if i not in taken
        }
        taken.append(max(worth, key=lambda i: (round(worth[i], 9), scores[i], -i)))
    return taken


@pytest.mark.parametrize("diversity", [0.0, 0.3, 0.7, 1.0])
def test_maximal_marginal_relevance_is_the_papers(rng: np.random.Generator, diversity: float) -> None:
    vectors = rng.normal(size=(30, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = np.sort(rng.random(30))[::-1]
    found = diverse(scores, vectors, 10, diversity).tolist()
    assert found == naive_mmr(scores.tolist(), vectors, 10, diversity)
    assert (found == list(range(10))) == (diversity == 0)


def with_selection(retriever: Retriever, corpus: Corpus, selection: Selection) -> Retriever:
    other = make_retriever(corpus)
    other.method = replace(retriever.method, selection=selection)
    return other


def test_search_brings_as_many_as_pass_the_threshold(retriever: Retriever, corpus: Corpus) -> None:
    scores = retriever.search(Query(QUERY, top_k=10)).hits[0].scores
    least = scores[4]
    passed = sum(score >= least for score in scores)
    found = (
        with_selection(retriever, corpus, Selection(kind="both", thresholds=Thresholds(score=least)))
        .search(Query(QUERY, top_k=10))
        .hits[0]
    )
    assert found.scores == scores[:passed]
    none = (
        with_selection(retriever, corpus, Selection(kind="threshold", thresholds=Thresholds(score=1.0)))
        .search(Query(["a blue zebra"], top_k=3, vectors=-retriever.vectors.text[:1]))
        .hits[0]
    )
    assert none.pair_ids == ()
    assert none.trouble.startswith("no pair shows 'a blue zebra': the best, '")
    assert none.trouble.endswith("and retrieval.thresholds asks for score 1")


def test_diverse_hits_look_less_alike(retriever: Retriever, corpus: Corpus) -> None:
    def alike(one: Retriever) -> float:
        images = one.vectors.image[corpus.rows(one.search(Query(QUERY, top_k=5)).hits[0].pair_ids)]
        return float((images @ images.T).mean())

    other = with_selection(retriever, corpus, Selection(diversity=0.5))
    assert (
        other.search(Query(QUERY, top_k=5)).hits[0].pair_ids[0]
        == retriever.search(Query(QUERY, top_k=5)).hits[0].pair_ids[0]
    )
    assert alike(other) < alike(retriever) - 0.1


@pytest.mark.parametrize("fusion", ["product", "reciprocal_rank"])
def test_other_fusions_find_the_caption_itself_and_deeper_changes_nothing(corpus: Corpus, fusion: str) -> None:
    retriever = make_retriever(corpus, Method(weights=WEIGHTS, fusion=fusion))  # type: ignore[arg-type]
    shallow, deep = (
        retriever.search(Query(QUERY, top_k=10)).hits[0],
        retriever.search(Query(QUERY, top_k=len(corpus))).hits[0],
    )
    assert shallow.pair_ids[0] == "tiny/noto/red-square"
    assert deep.pair_ids[:10] == shallow.pair_ids
    np.testing.assert_allclose(deep.scores[:10], shallow.scores, atol=2e-6)
    together = np.prod if fusion == "product" else np.sum
    np.testing.assert_allclose(together(list(shallow.parts.values()), axis=0), shallow.scores, atol=1e-5)


def test_near_duplicates_of_excluded_pairs_stay_away(retriever: Retriever) -> None:
    own = ["tiny/noto/red-square"]
    assert retriever.search(Query(QUERY, top_k=5, exclude=[own])).hits[0].pair_ids[0] == "tiny/noto-v1/red-square"
    hits = retriever.search(Query(QUERY, top_k=400, exclude=[own], without_duplicates=True)).hits[0]
    assert not {*own, "tiny/noto-v1/red-square"} & set(hits.pair_ids)
    assert "tiny/twemoji/red-square" in hits.pair_ids
    assert len(hits.pair_ids) == 400


def test_a_picture_that_must_not_come_is_known_by_its_looks(retriever: Retriever, corpus: Corpus) -> None:
    row = corpus.row("tiny/noto/red-square")
    found = NearDuplicates(corpus, VectorIndex.build(retriever.vectors.image, "Flat"))
    noisy = np.clip(corpus.pixels([row])[0].astype(int) + np.tile([-3, 3], (64, 32))[:, :, None], 0, 255)
    names = [
        corpus.table["pair_id"][one] for one in found.of_image(noisy.astype(np.uint8), retriever.vectors.image[row])
    ]
    assert {"tiny/noto/red-square", "tiny/noto-v1/red-square"} <= set(names)
    assert "tiny/noto/red-circle" not in names
    assert "tiny/noto/blue-square" not in names
    white = np.full((64, 64, 3), 255, dtype=np.uint8)
    assert not len(found.of_image(white, retriever.vectors.image[row]))


def test_a_hundred_kilobytes_and_control_characters_do_no_harm(retriever: Retriever) -> None:
    queries = ["a and b " * 12_500, " " * 100_000 + "red", "red\0square\x1b\ud800", "ก็" * 50_000, "\u202ered"]
    assert all(len(hits.pair_ids) == 3 for hits in retriever.search(Query(queries, top_k=3)).hits)
