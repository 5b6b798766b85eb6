"""What one step computes with weights, as one module: hooks of DistributedDataParallel sit on its `forward` alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rag_diffusion.config import ObjectiveConfig
from rag_diffusion.device import autocast
from rag_diffusion.errors import ConfigError
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_batch import NeighborBatch
from rag_diffusion.models.text_encoder import TextFeatures
from rag_diffusion.training.data import Batch
from rag_diffusion.training.objective import Noised, add_noise, stratified_timesteps, weighted_loss
from rag_diffusion.training.text_cache import TextCache


class TrainingStep(nn.Module):
    """Encodes the neighbors, projects them and predicts.

    Args:
        generator: its U-Net is the module's only part.
        precision: in which it computes.
        neighbor_gradient: whether the gradient also goes through f(c_n, 0); without, only through the projections.
        every_weight: whether each trained weight gets a gradient, zero where nothing of the batch needs it: processes
            that share weights out send each other all of them.

    Raises:
        ConfigError: without that gradient, nothing would train a separate neighbor encoder.
    """

    def __init__(
        self, generator: Generator, precision: str, neighbor_gradient: bool, *, every_weight: bool = False
    ) -> None:
        super().__init__()
        separate = generator.unet.neighbor_encoder
        untrained = separate is not None and any(weight.requires_grad for weight in separate.parameters())
        if untrained and not neighbor_gradient:
            raise ConfigError(
                "neighbor_gradient: expected true with a separate neighbor encoder, which nothing else trains, got "
                "false; set it, or share the encoder"
            )
        self.unet = generator.unet
        self._generator, self._precision, self._neighbor_gradient = generator, precision, neighbor_gradient
        self._every_weight = every_weight

    def forward(
        self,
        sample: Tensor,
        timesteps: Tensor,
        text: TextFeatures,
        neighbors: NeighborBatch,
        captions: TextFeatures | None,
    ) -> Tensor:
        """The generator's prediction at x_t.

        Args:
            sample: (B, D, h, w) x_t.
            timesteps: (B,).
            text: of B captions.
            neighbors: of B images.
            captions: of the N distinct neighbors; None where there are none.

        Returns:
            (B, C, h, w), in the type that autocast computes in.
        """
        generator, device = self._generator, sample.device
        with autocast(self._precision, device):
            features = None
            if captions is not None:
                with torch.set_grad_enabled(self._neighbor_gradient and torch.is_grad_enabled()):
                    maps = generator.neighbor_maps(neighbors.images, captions)
                features = generator.project(maps, neighbors)
            prediction = generator.predict(sample, timesteps, text, features)
        return self._tied(prediction)

    def _tied(self, prediction: Tensor) -> Tensor:
        """A batch without neighbors uses no trained weight where the base is frozen; its gradient is then zero."""
        if not torch.is_grad_enabled() or (prediction.requires_grad and not self._every_weight):
            return prediction
        trained = [weight for weight in self.unet.parameters() if weight.requires_grad]
        for weight in trained if self._every_weight else trained[:1]:
            prediction = prediction + 0.0 * weight.sum()
        return prediction


def draw_noised(generator: Generator, images: Tensor, rows: slice, batch_size: int, draws: torch.Generator) -> Noised:
    """x_t of some rows of a batch; noise and timesteps are drawn for the whole of it.

    Args:
        generator: its codec and schedule.
        images: (b, 3, H, W), those of `rows`.
        rows: of the batch.
        batch_size: B.
        draws: a fresh generator of the step's seed, on the CPU or where the generator lives.

    Returns:
        x_t (b, D, h, w) and what made it, on the generator's device.
    """
    device, schedule = generator.device, generator.schedule
    with torch.no_grad():
        clean = generator.codec.encode(images.to(device)).float()
    timesteps = stratified_timesteps(batch_size, schedule.config.num_train_timesteps, draws)
    noise = torch.randn((batch_size, *clean.shape[1:]), generator=draws, device=draws.device)
    return add_noise(schedule, clean, noise[rows].to(device), timesteps[rows].to(device))


def batch_loss(
    module: nn.Module, generator: Generator, texts: TextCache, batch: Batch, noised: Noised, config: ObjectiveConfig
) -> Tensor:
    """() mean weighted loss over the images of a batch.

    Args:
        module: a `TrainingStep`, wrapped or not.
        generator: whose U-Net it holds.
        texts: features of captions.
        batch: b targets.
        noised: their x_t.
        config: objective and weighting.
    """
    device = generator.device
    text = texts(batch.captions, device)
    captions = texts(batch.neighbors.captions, device) if batch.neighbors.captions else None
    prediction = module(noised.sample, noised.timesteps, text, batch.neighbors, captions)
    return weighted_loss(generator.prediction_type, prediction, noised, config.objective, config.weighting).mean()
