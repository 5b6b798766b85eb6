from __future__ import annotations

import numpy as np
import pytest

from rag_diffusion.errors import LineageError
from rag_diffusion.retrieval.query import Query
from rag_diffusion.retrieval.query_metrics import latencies
from rag_diffusion.retrieval.retriever import POOL, Retriever
from rag_diffusion.spans import recording
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.store.filters import Filter
from tests.unit.retrieval.made import make_retriever

QUERIES = ["red square, noto style", "blue ring, openmoji style", "green moon, twemoji style"]


def test_a_caption_finds_its_entity_and_itself_first(retriever: Retriever) -> None:
    for query, hits in zip(QUERIES, retriever.search(Query(QUERIES, top_k=3)).hits, strict=True):
        words, style = query.removesuffix(" style").split(", ")
        assert hits.pair_ids[0] == f"tiny/{style}/{words.replace(' ', '-')}"
        assert len(hits.pair_ids) == len(hits.scores) == 3


def test_scores_fall_and_are_the_sum_of_their_parts(retriever: Retriever) -> None:
    hits = retriever.search(Query(QUERIES, top_k=20)).hits[0]
    assert list(hits.scores) == sorted(hits.scores, reverse=True)
    assert set(hits.parts) == {"bm25", "text_to_text", "text_to_image"}
    np.testing.assert_allclose(np.sum(list(hits.parts.values()), axis=0), hits.scores, atol=1e-5)


def test_excluded_pairs_never_come_and_others_do(retriever: Retriever) -> None:
    whole = retriever.search(Query(QUERIES, top_k=10)).hits
    exclude = [whole[0].pair_ids[:5], [], whole[2].pair_ids[:1]]
    found = retriever.search(Query(QUERIES, top_k=10, exclude=exclude)).hits
    assert all(not set(hits.pair_ids) & set(ids) for hits, ids in zip(found, exclude, strict=True))
    assert all(len(hits.pair_ids) == 10 for hits in found)
    assert found[1] == whole[1]


def test_batch_of_three_equals_three_of_one(retriever: Retriever) -> None:
    alone = [retriever.search(Query([query], top_k=10)).hits[0] for query in QUERIES]
    assert retriever.search(Query(QUERIES, top_k=10)).hits == alone


def test_a_deeper_ranking_begins_with_the_shallow_one(retriever: Retriever) -> None:
    assert len(retriever.corpus) > POOL
    shallow = retriever.search(Query(QUERIES, top_k=10)).hits
    deep = retriever.search(Query(QUERIES, top_k=len(retriever.corpus))).hits
    for near, far in zip(shallow, deep, strict=True):
        assert far.pair_ids[:10] == near.pair_ids
        np.testing.assert_allclose(far.scores[:10], near.scores, atol=2e-6)
        assert len(set(far.pair_ids)) == len(retriever.corpus)


@pytest.mark.parametrize("name", ["text_to_text", "text_to_image"])
@pytest.mark.parametrize("factory", ["Flat", "HNSW32"])
def test_one_similarity_alone_is_exhaustive_search(corpus: Corpus, name: str, factory: str) -> None:
    weights = {"bm25": 0.0, "text_to_text": 0.0, "text_to_image": 0.0} | {name: 1.0}
    retriever = make_retriever(corpus, weights, factory)
    vectors = retriever.vectors
    base = vectors.text if name == "text_to_text" else vectors.image
    rankings = retriever.rank(QUERIES, depth=5, query_vectors=vectors.text[[3, 70, 200]])
    for row, ranking in zip([3, 70, 200], rankings, strict=True):
        exact = np.argsort(-(base @ vectors.text[row]), kind="stable")
        np.testing.assert_array_equal(ranking.rows[:5], exact[:5])


def test_candidates_can_be_limited_to_some_rows(retriever: Retriever) -> None:
    within = (retriever.corpus.table["split"] == "validation").to_numpy()
    ranking = next(retriever.rank(QUERIES[:1], depth=500, within=within))
    assert set(ranking.rows) == set(np.flatnonzero(within))
    near = next(retriever.rank(QUERIES[:1], depth=5, within=within))
    np.testing.assert_array_equal(near.rows[:5], ranking.rows[:5])


def test_hits_can_be_limited_to_a_source(retriever: Retriever) -> None:
    (hits,) = retriever.search(Query(["red circle, noto style"], top_k=9, where=Filter(sources=("tiny/twemoji",)))).hits
    assert len(hits.pair_ids) == 9
    assert all(name.startswith("tiny/twemoji/") for name in hits.pair_ids)


def test_excluding_an_unknown_pair_is_an_error(retriever: Retriever) -> None:
    with pytest.raises(LineageError, match="'tiny/none'"):
        retriever.search(Query(QUERIES[:1], top_k=3, exclude=[["tiny/none"]]))


def test_excluding_everything_leaves_nothing(retriever: Retriever) -> None:
    everything = retriever.corpus.table["pair_id"].tolist()
    hits = retriever.search(Query(QUERIES[:1], top_k=3, exclude=[everything])).hits[0]
    assert hits.pair_ids == hits.scores == ()


def test_a_recorded_query_tells_its_parts_in_order_and_how_long_each_took(retriever: Retriever) -> None:
    with recording("query") as root:
        retriever.search(Query(QUERIES[:1], top_k=3))
    names = [part.name for part in root.children]
    assert names == ["embed query", "nearest vectors", "shared words", "score and fuse"]
    assert root.children[-1].inputs["candidates"] >= POOL
    found = latencies([root, root])
    assert found.keys() >= {"query_ms_p50", "query_ms_p99", "embed_query_ms_p50", "score_and_fuse_ms_p99"}
    parts = sum(value for name, value in found.items() if name.endswith("_p50") and not name.startswith("query"))
    assert 0 < parts <= found["query_ms_p50"]
