"""Nothing passes the thresholds: the drawing is that without neighbors, and says why."""

from __future__ import annotations

import numpy as np
import pytest

from rag_diffusion.models.generator import Generator
from rag_diffusion.retrieval.calibration import fit_calibration
from rag_diffusion.retrieval.method import Method
from rag_diffusion.retrieval.retriever import Retriever
from rag_diffusion.retrieval.selection import Selection, Thresholds
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.seeds import seeded
from rag_diffusion.store.corpus import Corpus
from tests.unit.retrieval.made import WEIGHTS, make_retriever
from tests.unit.sampling.prompts import quiet


@pytest.fixture
def abstaining(tiny_corpus: Corpus) -> Retriever:
    selection = Selection(kind="both", thresholds=Thresholds(probability=0.5))
    found = make_retriever(tiny_corpus, Method(weights=WEIGHTS, selection=selection))
    found.calibration = fit_calibration(found, splits=("train", "validation", "test"))
    return found


def test_no_hit_passes_and_the_drawing_is_that_without_neighbors_bit_for_bit(
    tiny_generator: Generator, abstaining: Retriever
) -> None:
    pipe = quiet(RetrievalPipeline(tiny_generator, abstaining))
    prompts = ["a quokka in noto style", "zzzz qqqq"]
    options = {"num_inference_steps": 3, "output_type": "np"}
    lacking = pipe(prompts, num_neighbors=3, generator=seeded([7, 8]), **options)
    without = pipe(prompts, num_neighbors=0, generator=seeded([7, 8]), **options)
    np.testing.assert_array_equal(lacking.images, without.images)
    for origin, prompt in zip(lacking.provenance, prompts, strict=True):
        assert origin.neighbors == ()
        (trouble,) = origin.settings["trouble"]
        assert trouble.startswith(f"no pair shows {prompt!r}: the best, ")
    assert "trouble" not in without.provenance[0].settings


def test_beside_a_prompt_that_has_neighbors_the_other_still_has_none(
    tiny_generator: Generator, abstaining: Retriever
) -> None:
    pipe = quiet(RetrievalPipeline(tiny_generator, abstaining))
    found = pipe(
        ["red circle, noto style", "zzzz qqqq"], num_neighbors=2, num_inference_steps=2, generator=seeded([1, 2])
    )
    assert [len(origin.neighbors) for origin in found.provenance] == [2, 0]
    assert "trouble" not in found.provenance[0].settings
