"""Every weighting in every coordinate: the identities between them, and networks that predict x_0, eps and v."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import Tensor

from rag_diffusion.models.codec import PixelCodec
from rag_diffusion.models.generator import Generator, noise_schedule
from rag_diffusion.models.parametrisation import PREDICTIONS, from_clean
from rag_diffusion.models.unet import RetrievalUNet
from rag_diffusion.training.objective import Noised, add_noise, clean_weight, prediction_weight, weighted_loss
from tests.unit.training.trainer import Trainer

WEIGHTINGS = ("constant", "snr", "min_snr", "p2")
TIMESTEPS = torch.tensor([10, 200, 500, 800, 950])


@pytest.fixture
def noised() -> Noised:
    draws = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(5, 3, 4, 4, generator=draws).double() for _ in range(2))
    return add_noise(noise_schedule(), clean, noise, TIMESTEPS)


@pytest.fixture
def guess(noised: Noised) -> Tensor:
    return noised.clean + 0.3 * torch.randn(noised.clean.shape, generator=torch.Generator().manual_seed(1)).double()


def snr_of(noised: Noised) -> Tensor:
    return (noised.alpha_cumprod / (1 - noised.alpha_cumprod)).double()


def clean_error(noised: Noised, guess: Tensor) -> Tensor:
    return (guess - noised.clean).square().flatten(1).mean(1)


def loss(
    kind: str, noised: Noised, guess: Tensor, objective: str = "v_prediction", weighting: str = "constant"
) -> Tensor:
    said = from_clean(kind, noised.sample, guess, noised.alpha_cumprod.double())
    return weighted_loss(kind, said, noised, objective, weighting).double()


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("objective", PREDICTIONS)
def test_the_loss_is_the_same_whatever_the_network_predicts(
    noised: Noised, guess: Tensor, objective: str, weighting: str
) -> None:
    losses = [loss(kind, noised, guess, objective, weighting) for kind in PREDICTIONS]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=0)
    torch.testing.assert_close(losses[2], losses[0], rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("objective", "weighting", "weight"),
    [
        ("sample", "constant", lambda snr: torch.ones_like(snr)),
        ("epsilon", "constant", lambda snr: snr),
        ("v_prediction", "constant", lambda snr: 1 + snr),
        ("v_prediction", "snr", lambda snr: snr),
        ("v_prediction", "min_snr", lambda snr: snr.clamp(max=5)),
        ("v_prediction", "p2", lambda snr: snr / (1 + snr)),
    ],
)
def test_each_choice_is_its_weight_on_x0(noised: Noised, guess: Tensor, objective: str, weighting: str, weight) -> None:
    expected = weight(snr_of(noised)) * clean_error(noised, guess)
    for kind in PREDICTIONS:
        torch.testing.assert_close(loss(kind, noised, guess, objective, weighting), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_a_constant_weight_on_what_the_network_predicts_is_its_plain_error(noised: Noised, kind: str) -> None:
    assert torch.equal(prediction_weight(kind, noised.alpha_cumprod, kind, "constant"), torch.ones(5))


def test_min_snr_has_its_published_forms(noised: Noised) -> None:
    snr = snr_of(noised)
    assert snr.max() > 5 > snr.min(), "both sides of the bound"
    capped = snr.clamp(max=5)
    for kind, expected in (("sample", capped), ("epsilon", capped / snr), ("v_prediction", capped / (snr + 1))):
        found = prediction_weight(kind, noised.alpha_cumprod, "v_prediction", "min_snr")
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=0)


def test_p2_has_its_published_form_on_eps() -> None:
    snr = torch.tensor([0.01, 1.0, 30.0], dtype=torch.float64)
    found = clean_weight(snr, "v_prediction", "p2", p2_k=2.0, p2_gamma=0.5) / snr
    torch.testing.assert_close(found, 1 / (2 + snr) ** 0.5)


def test_a_schedule_that_ends_at_pure_noise_keeps_finite_weights() -> None:
    silent = torch.tensor([0.0, 0.5])
    for weighting in WEIGHTINGS:
        assert prediction_weight("v_prediction", silent, "v_prediction", weighting).isfinite().all()
    assert torch.equal(prediction_weight("epsilon", silent, "epsilon", "constant"), torch.ones(2))


def test_a_learned_variance_does_not_count(noised: Noised) -> None:
    said = torch.randn(5, 6, 4, 4)
    assert torch.equal(weighted_loss("epsilon", said, noised), weighted_loss("epsilon", said[:, :3], noised))


class ShrunkPixels(PixelCodec):
    """Pixels, four times smaller, so that the test is short."""

    def encode(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(images, 4)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "channels"), [*((kind, 3) for kind in PREDICTIONS), ("epsilon", 6)])
def test_networks_of_every_prediction_train(trainer: Trainer, tmp_path: Path, kind: str, channels: int) -> None:
    """Unpreconditioned, in pixels, as DeepFloyd IF is, with and without a learned variance."""
    old = trainer.generator
    torch.manual_seed(0)
    config = {key: value for key, value in old.unet.config.items() if not key.startswith("_")}
    unet = RetrievalUNet(**config | {"sample_size": 16, "in_channels": 3, "out_channels": channels})
    generator = Generator(
        unet=unet,
        codec=ShrunkPixels(),
        text_encoder=old.text_encoder,
        schedule=DDPMScheduler.from_config(noise_schedule().config, prediction_type=kind),
        image_size=64,
    )
    tiny = Trainer(generator, trainer.corpus, trainer.neighbors, trainer.config)
    losses = [value for _, value in tiny(tmp_path, steps=18, batch_size=4, objective=kind, learning_rate=0.003).losses]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
