"""The calibrated score: fitted, saved, used to say that nothing is there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rag_diffusion.errors import DataError
from rag_diffusion.retrieval.calibration import (
    UNCALIBRATED,
    Calibration,
    calibration_error,
    fit_calibration,
    reliability,
)
from rag_diffusion.retrieval.explain import explain
from rag_diffusion.retrieval.method import Method
from rag_diffusion.retrieval.query import Query
from rag_diffusion.retrieval.retriever import TOLD, Retriever
from rag_diffusion.retrieval.selection import Selection, Thresholds
from rag_diffusion.retrieval.weakness import weak_match
from rag_diffusion.store.corpus import Corpus
from tests.unit.retrieval.made import WEIGHTS, make_retriever


@pytest.fixture(scope="module")
def calibration(retriever: Retriever) -> Calibration:
    return fit_calibration(retriever, splits=("train", "validation", "test"))


@pytest.fixture
def abstaining(corpus: Corpus, calibration: Calibration) -> Retriever:
    selection = Selection(kind="both", thresholds=Thresholds(probability=0.5))
    found = make_retriever(corpus, Method(weights=WEIGHTS, selection=selection))
    found.calibration = calibration
    return found


def test_it_is_fitted_on_right_and_wrong_hits_and_tells_its_error(calibration: Calibration) -> None:
    assert calibration.fitted
    assert sum(entry.count for entry in calibration.bins) == calibration.num_hits
    right = sum(entry.count * entry.right for entry in calibration.bins) / calibration.num_hits
    assert 0.2 < right < 0.8
    assert calibration.expected_calibration_error == calibration_error(calibration.bins) < 0.1


def test_the_same_pairs_and_seed_give_the_same_calibration(retriever: Retriever) -> None:
    first, second = (fit_calibration(retriever, most=60, seed=3) for _ in range(2))
    assert first == second
    assert first != fit_calibration(retriever, most=60, seed=4)


def test_what_is_there_is_found_and_what_is_not_is_not(abstaining: Retriever) -> None:
    there, lacking = abstaining.search(Query(["red circle, noto style", "a quokka in noto style"], top_k=3)).hits
    assert {abstaining.corpus.pair(name).title for name in there.pair_ids} == {"red circle"}
    assert min(there.probabilities) >= 0.5
    assert there.trouble == ""
    assert lacking.pair_ids == lacking.scores == lacking.probabilities == ()
    assert lacking.trouble.startswith("no pair shows 'a quokka in noto style': the best, ")
    assert "retrieval.thresholds asks for probability 0.5" in lacking.trouble
    assert weak_match(abstaining, "a quokka in noto style", lacking) == lacking.trouble


def test_all_that_pass_come_where_only_a_threshold_is_set(abstaining: Retriever) -> None:
    by_threshold = replace(abstaining.method.selection, kind="threshold", max_neighbors=16)
    abstaining.method = replace(abstaining.method, selection=by_threshold)
    hits = abstaining.search(Query(["red circle, noto style"], top_k=1)).hits[0]
    assert 1 < len(hits.pair_ids) <= 16
    assert {abstaining.corpus.pair(name).title for name in hits.pair_ids} == {"red circle"}


def test_weak_hits_are_told_by_their_probability(abstaining: Retriever) -> None:
    abstaining.method = Method(weights=WEIGHTS)
    hits = abstaining.search(Query(["a quokka in noto style"], top_k=3)).hits[0]
    assert len(hits.pair_ids) == len(hits.probabilities) == 3
    told = weak_match(abstaining, "a quokka", hits)
    assert (
        told == "nothing here is likely to show 'a quokka': the best match does with probability "
        f"{max(hits.probabilities):.2f}"
    )
    there = abstaining.search(Query(["red circle, noto style"], top_k=3)).hits[0]
    assert weak_match(abstaining, "red circle", there) == ""


def test_things_of_one_prompt_keep_their_probabilities_and_their_trouble(abstaining: Retriever) -> None:
    hits = abstaining.search(Query(["a red circle and a quokka"], top_k=4)).hits[0]
    assert {abstaining.corpus.pair(name).title for name in hits.pair_ids} == {"red circle"}
    assert len(hits.probabilities) == len(hits.pair_ids)
    assert "no pair shows 'a quokka'" in hits.trouble


def test_it_comes_back_as_it_was_saved_and_of_another_encoder_not_at_all(
    calibration: Calibration, tmp_path: Path
) -> None:
    path = tmp_path / "calibration.json"
    stamped = replace(calibration, encoder_hash="e")
    stamped.save(path)
    assert Calibration.load(path, encoder_hash="e") == stamped
    other = Calibration.load(path, encoder_hash="f")
    assert not other.fitted
    assert other.reason == "calibration.json is of another encoder; run the stage `index`, or `kb calibrate`"
    replace(stamped, features=("height",)).save(path)
    assert "fitted on other features" in Calibration.load(path, encoder_hash="e").reason
    path.write_text("{}")
    with pytest.raises(DataError, match="expected a calibration, got KeyError"):
        Calibration.load(path, encoder_hash="e")
    assert Calibration.load(tmp_path / "none.json", encoder_hash="e") == Calibration(reason=UNCALIBRATED)


def test_too_few_things_are_told_in_words(retriever: Retriever) -> None:
    few = fit_calibration(retriever, most=5)
    assert not few.fitted
    assert few.reason == "scores are not calibrated: expected things of at least 20 families, got 5"


def test_reliability_by_hand() -> None:
    bins = reliability(np.array([0.05, 0.95, 1.0, 0.91]), np.array([0.0, 1.0, 1.0, 0.0]))
    assert [(entry.low, entry.count) for entry in bins] == [(0.0, 1), (0.9, 3)]
    assert bins[1].right == pytest.approx(2 / 3, abs=1e-6)
    expected = (0.05 + 3 * abs((0.95 + 1 + 0.91) / 3 - 2 / 3)) / 4
    assert calibration_error(bins) == pytest.approx(expected, abs=1e-5)
    assert calibration_error(()) == 0


def test_of_many_hits_the_first_are_judged_where_no_threshold_depends_on_it(abstaining: Retriever) -> None:
    abstaining.method = Method(weights=WEIGHTS)
    many, few = (abstaining.search(Query(["a red circle"], top_k=count)).hits[0] for count in (300, 5))
    assert (len(many.pair_ids), len(many.probabilities)) == (300, TOLD)
    assert many.probabilities[:5] == few.probabilities
    explained = explain(abstaining, "a red circle", many).hits
    assert explained[TOLD - 1].probability == many.probabilities[-1]
    assert explained[TOLD].probability is None
    diverse = replace(abstaining.method, selection=Selection(diversity=0.9))
    abstaining.method = diverse
    spread = abstaining.search(Query(["a red circle"], top_k=150)).hits[0]
    assert len(spread.pair_ids) == 150
    assert spread.probabilities[0] == few.probabilities[0]
