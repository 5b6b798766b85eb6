"""The steps of one drawing: guided predictions with the neighbors of the moment, thresholded, through a scheduler.

Shapes: B images, D/h/w the U-Net's input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rag_diffusion.arrays import Pixels
from rag_diffusion.device import autocast
from rag_diffusion.models.codec import images_to_pixels
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.parametrisation import to_clean
from rag_diffusion.models.text_encoder import TextFeatures
from rag_diffusion.sampling.conditioning import Conditioning
from rag_diffusion.sampling.denoise import denoise, solver_steps, takes_variance
from rag_diffusion.sampling.embeddings import Embeddings, ImageConditions
from rag_diffusion.sampling.guided import GuidedPrediction
from rag_diffusion.sampling.inpainting import Kept
from rag_diffusion.sampling.steering import DrawingState
from rag_diffusion.sampling.threshold import Thresholding, threshold_each


@dataclass(frozen=True, kw_only=True)
class Loop:
    """One drawing of B prompts: everything that stays the same over its steps.

    Attributes:
        generator: the network.
        scheduler: its timesteps set.
        prompts: B texts.
        thresholding: of x_0, one an image.
        palettes: of those that are drawn in few flat colours; B, None for one of its own.
        seeds: of the coin, one an image.
        precision: of autocast.
        clean: (B, D, h, w) x_0 of the pictures to begin with; None begins with noise.
        anew: (B, 1, h, w) which cells of these are drawn; None draws all.
        first: the first call of the network, of `start_at`.
        state: guidance and texts, which a callback may change.
        negative: B texts in place of the empty ones; None is these.
        embeddings: in the place of encoded texts.
        images: image prompts and control pictures.
        eta: of `denoise`.
        on_step: gets the number of each finished step, its timestep, x_t and the estimate of x_0 that it was made with,
            and returns the x_t that goes on.
    """

    generator: Generator
    scheduler: Any
    prompts: Sequence[str]
    state: DrawingState
    thresholding: Sequence[Thresholding]
    palettes: Sequence[Pixels | None]
    seeds: list[int]
    precision: str
    clean: Tensor | None = None
    anew: Tensor | None = None
    first: int = 0
    negative: Sequence[str] | None = None
    embeddings: Embeddings = field(default_factory=Embeddings)
    images: ImageConditions = field(default_factory=ImageConditions)
    eta: float = 0.0
    on_step: Callable[[int, Tensor, Tensor, Tensor], Tensor]

    def run(self, noise: Tensor, generators: Sequence[torch.Generator], conditioning: Conditioning) -> Tensor:
        """All steps.

        Args:
            noise: (B, D, h, w) standard normal.
            generators: of the noise that an ancestral scheduler adds, one an image.
            conditioning: the neighbors, step by step.

        Returns:
            (B, D, h, w) x_0.
        """
        model = self.generator
        state = self.state
        state.text, state.null = self._texts()
        calls = solver_steps(self.scheduler)[self.first :]
        step_of = [step - calls[0] for step in calls]
        plan = state.guidance.plan(conditioning.num_steps, self.seeds)
        learned = takes_variance(self.scheduler)
        last: list[Tensor] = [noise]

        def so_far() -> Pixels:
            return images_to_pixels(model.codec.decode(last[0]).float()).cpu().numpy()

        def predict(number: int, sample: Tensor, timestep: Tensor) -> Tensor:
            with autocast(self.precision, model.device):
                if number == 0 or step_of[number] > step_of[number - 1]:
                    conditioning.at(step_of[number], so_far)
                seen, shown, recorder = conditioning.seen, conditioning.shown, conditioning.recorder
                guided = self._guided(step_of[number], conditioning.num_steps)
                output = guided(sample, timestep, plan[step_of[number]], seen, shown, recorder)
            mean, variance = output[:, : sample.shape[1]], output[:, sample.shape[1] :]
            mean = threshold_each(model, self.thresholding, self.palettes, sample, timestep, mean)
            last[0] = to_clean(model.prediction_type, sample, mean, model.alphas_cumprod(timestep))
            return torch.cat([mean, variance], dim=1) if learned else mean

        return denoise(
            self.scheduler,
            noise,
            predict,
            clean=self.clean,
            first=self.first,
            generators=generators,
            on_step=lambda number, timestep, sample: self.on_step(number, timestep, sample, last[0]),
            eta=self.eta,
            kept=self._kept(noise),
            interrupted=lambda: state.interrupted,
        )

    def _texts(self) -> tuple[TextFeatures, TextFeatures]:
        """Features of the prompts, and of what guidance goes away from."""
        negative = [""] * len(self.prompts) if self.negative is None else self.negative
        text, null = self.embeddings.features(self.generator, self.prompts, negative)
        return self.images.joined(text, null)

    def _guided(self, step: int, num_steps: int) -> GuidedPrediction:
        """The prediction at a step of `num_steps`, by the texts and scales of the moment."""
        state, model = self.state, self.generator
        assert state.text is not None
        assert state.null is not None
        if model.control is not None and not model.control.at_work(step, num_steps):
            model = replace(model, control=None)
        return GuidedPrediction(generator=model, guidance=state.guidance, text=state.text, null=state.null)

    def _kept(self, noise: Tensor) -> Kept | None:
        if self.anew is None:
            return None
        assert self.clean is not None
        return Kept(anew=self.anew, clean=self.clean, noise=noise)
