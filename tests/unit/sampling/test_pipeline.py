"""The denoising loop: determinism, invariances, the neighbor cache, and a closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rag_diffusion.corpus.store import Corpus
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_batch import NeighborBatch
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.pipeline import GuidedVelocity, RetrievalPipeline, initial_noise

PROMPTS = ["red circle, noto style", "blue ring, twemoji style", "green bar, openmoji style"]
LISTS = [["tiny/noto/red-circle", "tiny/twemoji/red-circle"], ["tiny/noto/blue-ring"], []]


@pytest.fixture
def pipeline(tiny_generator: Generator) -> RetrievalPipeline:
    return RetrievalPipeline(tiny_generator, num_inference_steps=4)


@pytest.mark.parametrize("mode", ["none", "text", "neighbor", "alternate", "interleaved", "joint"])
def test_a_batch_equals_its_images_one_by_one(pipeline: RetrievalPipeline, tiny_corpus: Corpus, mode: str) -> None:
    guidance = Guidance(mode=mode)
    together = pipeline(PROMPTS, NeighborBatch.gather(tiny_corpus, LISTS), [1, 2, 3], guidance)
    for row in range(3):
        alone = pipeline(
            PROMPTS[row : row + 1],
            NeighborBatch.gather(tiny_corpus, LISTS[row : row + 1]),
            [row + 1],
            guidance,
        )
        assert np.abs(alone[0].astype(int) - together[row].astype(int)).max() <= 1


def test_an_empty_neighbor_list_draws_what_no_neighbors_draw(pipeline: RetrievalPipeline, tiny_corpus: Corpus) -> None:
    guidance = Guidance(mode="text")
    mixed = pipeline(PROMPTS, NeighborBatch.gather(tiny_corpus, LISTS), [1, 2, 3], guidance)
    none = pipeline(PROMPTS, None, [1, 2, 3], guidance)
    assert np.array_equal(mixed[2], none[2])
    assert not np.array_equal(mixed[0], none[0])


def test_features_made_once_equal_features_made_in_every_step(
    pipeline: RetrievalPipeline, tiny_corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    neighbors = NeighborBatch.gather(tiny_corpus, LISTS)
    cached = pipeline(PROMPTS, neighbors, [1, 2, 3])
    made = []

    class Anew(GuidedVelocity):
        def __call__(self, sample, timestep, steps):  # type: ignore[no-untyped-def]
            made.append(pipeline._neighbor_features(neighbors))
            return GuidedVelocity.__call__(replace(self, features=made[-1]), sample, timestep, steps)

    def replace(one, **changes):  # type: ignore[no-untyped-def]
        return GuidedVelocity(**{**vars(one), **changes})

    monkeypatch.setattr("rag_diffusion.sampling.pipeline.GuidedVelocity", Anew)
    assert np.array_equal(pipeline(PROMPTS, neighbors, [1, 2, 3]), cached)
    assert len(made) == 4


def test_noise_depends_on_the_seed_alone() -> None:
    assert torch.equal(initial_noise([5, 6], (3, 4, 4))[1], initial_noise([6], (3, 4, 4))[0])


def test_different_lengths_are_refused(pipeline: RetrievalPipeline) -> None:
    with pytest.raises(ValueError, match="as many seeds and neighbor lists as prompts"):
        pipeline(PROMPTS, None, [1])
