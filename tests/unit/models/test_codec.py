"""Patches, their principal components, and what preconditioning promises."""

from __future__ import annotations

import pytest
import torch

from rag_diffusion.models.codec import PatchCodec, images_to_pixels, pixels_to_images
from rag_diffusion.models.generator import noise_schedule
from rag_diffusion.models.parametrisation import target
from rag_diffusion.models.precondition import Precondition
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.training.objective import add_noise


@pytest.fixture(scope="module")
def codec(tiny_corpus: Corpus) -> PatchCodec:
    return PatchCodec.fit(tiny_corpus.pixels(), 4)


def test_decoding_gives_the_pixels_back(codec: PatchCodec, tiny_corpus: Corpus) -> None:
    pixels = torch.from_numpy(tiny_corpus.pixels([0, 7, 99]))
    assert torch.equal(images_to_pixels(codec.decode(codec.encode(pixels_to_images(pixels)))), pixels)


def test_the_basis_is_orthonormal_so_white_noise_stays_white(codec: PatchCodec) -> None:
    torch.testing.assert_close(codec.basis @ codec.basis.T, torch.eye(48), atol=1e-5, rtol=0)


def test_components_are_uncorrelated_and_have_the_said_deviation(codec: PatchCodec, tiny_corpus: Corpus) -> None:
    sample = codec.encode(pixels_to_images(torch.from_numpy(tiny_corpus.pixels())))
    rows = sample.permute(0, 2, 3, 1).reshape(-1, 48).double()
    covariance = torch.cov(rows.T)
    torch.testing.assert_close(rows.mean(0), torch.zeros(48).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(covariance.diagonal().sqrt().clamp(min=1e-3), codec.std.double(), atol=2e-3, rtol=0.02)
    assert (covariance - covariance.diag().diag()).abs().max() < 1e-3
    assert codec.std.tolist() == sorted(codec.std.tolist(), reverse=True)


def test_without_known_spread_it_is_plain_v_prediction() -> None:
    factors = Precondition.at(torch.tensor([0.1, 0.7]), torch.ones(5))
    sample, output = torch.randn(2, 5, 3, 3), torch.randn(2, 5, 3, 3)
    torch.testing.assert_close(factors.velocity(sample, output), output)
    torch.testing.assert_close(factors.scale_in, torch.ones(2, 5, 1, 1))


@pytest.mark.parametrize("timestep", [5, 300, 700, 990])
def test_input_and_target_of_the_network_have_unit_variance(timestep: int) -> None:
    """And what is left after the linear guess is uncorrelated with x_t: it is the best linear guess."""
    generator = torch.Generator().manual_seed(0)
    std = torch.tensor([3.0, 1.0, 0.2, 0.03])
    clean = torch.randn(4000, 4, 4, 4, generator=generator) * std.view(1, -1, 1, 1)
    noise = torch.randn(clean.shape, generator=generator)
    schedule, timesteps = noise_schedule(), torch.full((4000,), timestep)
    noised = add_noise(schedule, clean, noise, timesteps)
    factors = Precondition.at(schedule.alphas_cumprod[timestep], std)
    seen = noised.sample * factors.scale_in
    velocity = target("v_prediction", noised.clean, noised.noise, noised.alpha_cumprod)
    wanted = (velocity - factors.skip * noised.sample) / factors.scale_out
    for values in (seen, wanted):
        torch.testing.assert_close(values.std(dim=(0, 2, 3)), torch.ones(4), atol=0.03, rtol=0)
    assert (seen * wanted).mean(dim=(0, 2, 3)).abs().max() < 0.03
