"""The denoising loop: determinism, invariances, the neighbor cache, and a closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rag_diffusion.corpus.store import Corpus
from rag_diffusion.errors import ConfigError
from rag_diffusion.models.generator import (
    Generator,
    initial_noise,
    noise_schedule,
    sampling_scheduler,
)
from rag_diffusion.models.neighbor_batch import NeighborBatch
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.pipeline import RetrievalPipeline

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
    predict = pipeline._predict

    def anew(sample, timestep, text, null, features, guidance, steps):  # type: ignore[no-untyped-def]
        return predict(
            sample,
            timestep,
            text,
            null,
            pipeline._neighbor_features(neighbors),
            guidance,
            steps,
        )

    monkeypatch.setattr(pipeline, "_predict", anew)
    assert np.array_equal(pipeline(PROMPTS, neighbors, [1, 2, 3]), cached)


def test_noise_depends_on_the_seed_alone() -> None:
    assert torch.equal(initial_noise([5, 6], (3, 4, 4))[1], initial_noise([6], (3, 4, 4))[0])


@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_the_ideal_denoiser_of_a_gaussian_gives_its_variance(name: str) -> None:
    """For x_0 ~ N(0, s^2), E[x_0 | x_t] = abar^.5 s^2 / (abar s^2 + 1 - abar) x_t: a sampler must end with s^2."""
    deviation, abar = 0.3, noise_schedule().alphas_cumprod
    scheduler = sampling_scheduler(name, 200)
    sample = torch.randn(20000, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        a = abar[int(timestep)]
        clean = a.sqrt() * deviation**2 / (a * deviation**2 + 1 - a) * sample
        noise = (sample - a.sqrt() * clean) / (1 - a).sqrt()
        sample = scheduler.step(a.sqrt() * noise - (1 - a).sqrt() * clean, timestep, sample).prev_sample
    assert float(sample.std()) == pytest.approx(deviation, rel=0.03)


def test_different_lengths_are_refused(pipeline: RetrievalPipeline) -> None:
    with pytest.raises(ValueError, match="as many seeds and neighbor lists as prompts"):
        pipeline(PROMPTS, None, [1])


def test_a_scheduler_that_diffusers_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected the name of a diffusers scheduler, got 'NoScheduler'"):
        sampling_scheduler("NoScheduler", 10)
