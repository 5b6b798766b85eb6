"""RetrievalPipeline: prompts and neighbors in, images out; a diffusers DiffusionPipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from numpy.typing import NDArray
from torch import Tensor

from rag_diffusion.models.codec import images_to_pixels
from rag_diffusion.models.generator import Generator, initial_noise, sampling_scheduler
from rag_diffusion.models.neighbor_attention import MASKED, NeighborKV
from rag_diffusion.models.neighbor_batch import NeighborBatch
from rag_diffusion.models.text_encoder import TextFeatures
from rag_diffusion.sampling.guidance import Guidance, Step, combine


class RetrievalPipeline(DiffusionPipeline):
    """The denoising loop over a generator.

    Args:
        generator: U-Net, text encoder and noise schedule.
        scheduler_name: a diffusers scheduler by class name.
        num_inference_steps: denoising steps.
    """

    def __init__(
        self,
        generator: Generator,
        scheduler_name: str = "DDIMScheduler",
        num_inference_steps: int = 20,
    ) -> None:
        super().__init__()
        self.generator = generator
        self._scheduler_name, self._num_steps = scheduler_name, num_inference_steps
        self.register_modules(unet=generator.unet, scheduler=sampling_scheduler(scheduler_name, num_inference_steps))

    @torch.inference_mode()
    def __call__(
        self,
        prompts: Sequence[str],
        neighbors: NeighborBatch | None,
        seeds: Sequence[int],
        guidance: Guidance | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> NDArray[np.uint8]:
        """Draw one image for each prompt.

        Args:
            prompts: B texts.
            neighbors: of the same B images; None draws without.
            seeds: B seeds of the initial noise and of the coin.
            guidance: None is `Guidance()`. An image without neighbors takes a text-enhanced step for every guided one.
            on_step: called with the number of each finished step.

        Returns:
            (B, H, W, 3) uint8.

        Raises:
            ValueError: the numbers of prompts, neighbors and seeds differ.
        """
        lengths = {len(prompts), len(seeds)} | ({len(neighbors)} if neighbors is not None else set())
        if len(lengths) != 1:
            raise ValueError(f"expected as many seeds and neighbor lists as prompts, got lengths {sorted(lengths)}")
        guidance = guidance or Guidance()
        device = self.generator.device
        text = self.generator.text_encoder(list(prompts)).to(device)
        null = self.generator.text_encoder([""] * len(prompts)).to(device)
        shown = [False] * len(prompts) if neighbors is None else neighbors.mask.any(dim=1).tolist()
        features = None if neighbors is None or not any(shown) else self._neighbor_features(neighbors)
        scheduler = sampling_scheduler(self._scheduler_name, self._num_steps)
        config = self.unet.config
        shape = (config.in_channels, config.sample_size, config.sample_size)
        sample = initial_noise(list(seeds), shape).to(device) * scheduler.init_noise_sigma
        noise_generators = [torch.Generator().manual_seed(seed + 1) for seed in seeds]
        plan = guidance.plan(len(scheduler.timesteps), list(seeds))
        for number, timestep in enumerate(scheduler.timesteps):
            steps = [
                _possible(step, there) for step, there in zip(plan[min(number, len(plan) - 1)], shown, strict=True)
            ]
            model_input = scheduler.scale_model_input(sample, timestep)
            output = self._predict(model_input, timestep, text, null, features, guidance, steps)
            output = self._clip(model_input, timestep, output)
            sample = scheduler.step(
                output, timestep, sample, **_step_arguments(scheduler, noise_generators)
            ).prev_sample
            if on_step is not None:
                on_step(number)
        return images_to_pixels(self.generator.codec.decode(sample.float())).cpu().numpy()

    def _neighbor_features(self, neighbors: NeighborBatch) -> dict[str, NeighborKV]:
        captions = self.generator.text_encoder(list(neighbors.captions)).to(self.generator.device)
        return self.generator.neighbor_features(neighbors, captions)

    def _clip(self, sample: Tensor, timestep: Tensor, velocity: Tensor) -> Tensor:
        """Static thresholding (Imagen): keep the pixels of the x_0 estimate in [-1, 1], in v's coordinates."""
        alpha = self.scheduler.alphas_cumprod[timestep.long()].to(sample.device)
        a, b = alpha.sqrt(), (1 - alpha).sqrt()
        codec = self.generator.codec
        clean = codec.encode(codec.decode(a * sample - b * velocity).clamp(-1, 1))
        clipped: Tensor = (a * sample - clean) / b
        return clipped

    def _predict(
        self,
        sample: Tensor,
        timestep: Tensor,
        text: TextFeatures,
        null: TextFeatures,
        features: dict[str, NeighborKV] | None,
        guidance: Guidance,
        steps: list[Step],
    ) -> Tensor:
        """The guided prediction; rows may take different steps."""
        if all(step is Step.PLAIN for step in steps):
            return self.generator.velocity(sample, timestep, text, features)
        no_text = torch.tensor([step in (Step.TEXT, Step.JOINT) for step in steps], device=sample.device)
        no_neighbors = torch.tensor([step in (Step.NEIGHBOR, Step.JOINT) for step in steps], device=sample.device)
        choose = no_text[:, None]
        states = torch.cat([text.states, torch.where(choose[..., None], null.states, text.states)])
        mask = torch.cat([text.mask, torch.where(choose, null.mask, text.mask)])
        both = None if features is None else {name: _twice(kv, no_neighbors) for name, kv in features.items()}
        full, reduced = self.generator.velocity(
            torch.cat([sample, sample]), timestep, TextFeatures(states, mask), both
        ).chunk(2)
        scales = torch.tensor([guidance.scale(step) for step in steps], device=sample.device)
        return combine(full, reduced, scales)


def _possible(step: Step, has_neighbors: bool) -> Step:
    """Without neighbors there is nothing to leave out but the text."""
    return step if has_neighbors or step is Step.PLAIN else Step.TEXT


def _twice(kv: NeighborKV, hidden: Tensor) -> NeighborKV:
    """The batch twice; in the second half the `hidden` rows see the null token alone."""
    width = kv.values.shape[-1]
    second = kv.keys.clone()
    second[:, :, :-1, width + 2] += torch.where(hidden, MASKED, 0.0)[:, None, None]
    return NeighborKV(torch.cat([kv.keys, second]), torch.cat([kv.values, kv.values]))


def _step_arguments(scheduler: Any, generators: list[torch.Generator]) -> dict[str, Any]:
    """Ancestral schedulers draw noise: each image has a generator of its own."""
    import inspect

    accepts = inspect.signature(scheduler.step).parameters
    return {"generator": generators} if "generator" in accepts else {}
