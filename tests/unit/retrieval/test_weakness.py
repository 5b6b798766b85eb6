"""Weak matches are told: raw cosines against what random pairs reach."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rag_diffusion.retrieval.explain import explain
from rag_diffusion.retrieval.query import Query
from rag_diffusion.retrieval.retriever import Retriever
from rag_diffusion.retrieval.weakness import reach, weak_match
from rag_diffusion.terminal.kb_search import as_html, as_text
from rag_diffusion.types import Hits


def found(**raw: tuple[float, ...]) -> Hits:
    count = len(next(iter(raw.values())))
    return Hits(pair_ids=("a",) * count, scores=(0.5,) * count, parts={}, raw=raw)


def test_hits_carry_the_similarities_themselves(retriever: Retriever) -> None:
    query = "red circle, noto style"
    hits = retriever.search(Query([query], top_k=3)).hits[0]
    rows = retriever.corpus.rows(hits.pair_ids)
    vector = retriever.embed([query])[0]
    assert hits.raw["text_to_text"] == pytest.approx((retriever.vectors.text[rows] @ vector).tolist(), abs=1e-5)
    assert hits.raw["text_to_image"] == pytest.approx((retriever.vectors.image[rows] @ vector).tolist(), abs=1e-5)
    assert set(hits.raw) == set(hits.parts)
    assert len(hits.raw["bm25"]) == 3


def test_several_things_keep_their_similarities(retriever: Retriever) -> None:
    hits = retriever.search(Query(["a red circle and a blue ring"], top_k=4)).hits[0]
    assert {len(values) for values in hits.raw.values()} == {len(hits.pair_ids)}


def test_what_random_pairs_reach_is_a_quantile_of_pairs_of_different_things(retriever: Retriever) -> None:
    limits = reach(retriever)
    rows = np.random.default_rng(0).permutation(len(retriever.corpus))[:256]
    entity = retriever.corpus.table["entity"].to_numpy()[rows]
    cosines = retriever.vectors.text[rows].astype(np.float64) @ retriever.vectors.text[rows].astype(np.float64).T
    others = cosines[entity[:, None] != entity[None]]
    assert (others < limits["text_to_text"]).mean() == pytest.approx(0.99, abs=1e-3)


def test_a_best_cosine_below_that_is_told_in_a_plain_sentence(retriever: Retriever) -> None:
    limit = reach(retriever)["text_to_text"]
    weak = weak_match(retriever, "a cheetah", found(text_to_text=(limit - 0.1, limit - 0.2)))
    assert weak.startswith("nothing here is much like 'a cheetah': the best match is no better than one by chance")
    assert f"text to text cosine {limit - 0.1:.2f}, random pairs reach {limit:.2f}" in weak
    assert weak_match(retriever, "a cheetah", found(text_to_text=(limit + 0.01, 0.0))) == ""
    assert weak_match(retriever, "a cheetah", Hits(pair_ids=(), scores=(), parts={})) == ""


def test_search_shows_the_similarities_and_the_sentence(retriever: Retriever) -> None:
    hits = retriever.search(Query(["red circle, noto style"], top_k=2)).hits[0]
    told = explain(retriever, "red circle", hits)
    line = as_text(told).splitlines()[0]
    assert f"text_to_text {hits.raw['text_to_text'][0]:.2f}" in line
    assert line.split()[1] == hits.pair_ids[0]
    page = as_html(replace(told, weak="w"), dict.fromkeys(hits.pair_ids, b""), ["nothing here is much like it"])
    assert "nothing here is much like it" in page
    assert f"text_to_text {hits.raw['text_to_text'][0]:.2f}" in page
