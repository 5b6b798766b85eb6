"""RetrievalPipeline: prompts and neighbors in, images out; a diffusers DiffusionPipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DiffusionPipeline
from numpy.typing import NDArray
from torch import Tensor

from rag_diffusion.device import autocast
from rag_diffusion.models.codec import images_to_pixels
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_attention import NeighborKV
from rag_diffusion.models.neighbor_batch import NeighborBatch
from rag_diffusion.models.text_encoder import TextFeatures
from rag_diffusion.sampling.attention import AttentionRecorder
from rag_diffusion.sampling.denoise import denoise, make_scheduler
from rag_diffusion.sampling.guidance import Guidance, Step, combine


class RetrievalPipeline(DiffusionPipeline):
    """The denoising loop over a generator.

    Args:
        generator: U-Net, text encoder and noise schedule.
        scheduler_name: a diffusers scheduler by class name.
        num_inference_steps: denoising steps.
        precision: `fp32`, `bf16`, or `auto`: bfloat16 where the hardware is fast at it.
    """

    def __init__(
        self,
        generator: Generator,
        scheduler_name: str = "DDIMScheduler",
        num_inference_steps: int = 20,
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        self.generator = generator
        self._scheduler_name, self._num_steps = scheduler_name, num_inference_steps
        self._precision = precision
        self.register_modules(unet=generator.unet, scheduler=make_scheduler(scheduler_name, num_inference_steps))

    @torch.inference_mode()
    def __call__(
        self,
        prompts: Sequence[str],
        neighbors: NeighborBatch | None,
        seeds: Sequence[int],
        guidance: Guidance | None = None,
        on_step: Callable[[int], None] | None = None,
        recorder: AttentionRecorder | None = None,
    ) -> NDArray[np.uint8]:
        """Draw one image for each prompt.

        Args:
            prompts: B texts.
            neighbors: of the same B images; None draws without.
            seeds: B seeds of the initial noise and of the coin.
            guidance: None is `Guidance()`. An image without neighbors takes a text-enhanced step for every guided one.
            on_step: called with the number of each finished step.
            recorder: told which images are drawn when; see `AttentionRecorder.listening`.

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
        shown = [False] * len(prompts) if neighbors is None else neighbors.mask.any(dim=1).tolist()
        guided = GuidedVelocity(
            generator=self.generator,
            guidance=guidance,
            text=self.generator.text_encoder(list(prompts)).to(device),
            null=self.generator.text_encoder([""] * len(prompts)).to(device),
            features=None if neighbors is None or not any(shown) else self._neighbor_features(neighbors),
            shown=shown,
            recorder=recorder,
        )
        scheduler = make_scheduler(self._scheduler_name, self._num_steps)
        plan = guidance.plan(len(scheduler.timesteps), list(seeds))

        def predict(number: int, sample: Tensor, timestep: Tensor) -> Tensor:
            with autocast(self._precision, device):
                velocity = guided(sample, timestep, plan[number])
            return self._clip(sample, timestep, velocity)

        config = self.unet.config
        noise = initial_noise(list(seeds), (config.in_channels, config.sample_size, config.sample_size)).to(device)
        clean = denoise(
            scheduler,
            noise,
            predict,
            generators=[torch.Generator().manual_seed(seed + 1) for seed in seeds],
            on_step=None if on_step is None else lambda number, _: on_step(number),
        )
        return images_to_pixels(self.generator.codec.decode(clean.float())).cpu().numpy()

    def _neighbor_features(self, neighbors: NeighborBatch) -> dict[str, NeighborKV]:
        captions = self.generator.text_encoder(list(neighbors.captions)).to(self.generator.device)
        with autocast(self._precision, self.generator.device):
            return self.generator.neighbor_features(neighbors, captions)

    def _clip(self, sample: Tensor, timestep: Tensor, velocity: Tensor) -> Tensor:
        """Static thresholding (Imagen): keep the pixels of the x_0 estimate in [-1, 1], in v's coordinates."""
        alpha = self.scheduler.alphas_cumprod[timestep.long()].to(sample.device)
        a, b = alpha.sqrt(), (1 - alpha).sqrt()
        codec = self.generator.codec
        clean = codec.encode(codec.decode(a * sample - b * velocity).clamp(-1, 1))
        clipped: Tensor = (a * sample - clean) / b
        return clipped


@dataclass(frozen=True, kw_only=True)
class GuidedVelocity:
    """The guided prediction of a batch whose images may take different steps; images of one kind go together.

    Attributes:
        text, null: features of the B prompts, and of as many empty ones.
        features: keys and values of the neighbors; None draws without.
        shown: whether each image has a neighbor.
    """

    generator: Generator
    guidance: Guidance
    text: TextFeatures
    null: TextFeatures
    features: dict[str, NeighborKV] | None
    shown: Sequence[bool]
    recorder: AttentionRecorder | None = None

    def __call__(self, sample: Tensor, timestep: Tensor, steps: Sequence[Step]) -> Tensor:
        """v_hat (B, D, h, w) of x_t; one step for each image."""
        possible = [_possible(step, there) for step, there in zip(steps, self.shown, strict=True)]
        kinds = set(possible)
        if len(kinds) == 1:
            self._expect(torch.arange(len(possible)))
            return self._predict(kinds.pop(), sample, timestep, self.text, self.null, self.features)
        result = torch.empty_like(sample, dtype=torch.float32)
        for kind in sorted(kinds, key=lambda step: step.value):
            rows = torch.tensor([row for row, step in enumerate(possible) if step is kind], device=sample.device)
            self._expect(rows)
            features = None if self.features is None else {name: kv.select(rows) for name, kv in self.features.items()}
            result[rows] = self._predict(kind, sample[rows], timestep, self.text[rows], self.null[rows], features)
        return result

    def _expect(self, rows: Tensor) -> None:
        if self.recorder is not None:
            self.recorder.expect(rows)

    def _predict(
        self,
        step: Step,
        sample: Tensor,
        timestep: Tensor,
        text: TextFeatures,
        null: TextFeatures,
        features: dict[str, NeighborKV] | None,
    ) -> Tensor:
        velocity = self.generator.predict
        if step is Step.PLAIN:
            return velocity(sample, timestep, text, features)
        if step is Step.NEIGHBOR:  # the encoder sees the text alone: one pass for both predictions
            full, reduced = velocity(sample, timestep, text, features, and_without=True).chunk(2)
        else:
            both = TextFeatures.cat([text, null])
            hidden = step is Step.JOINT
            twice = None if features is None else {name: kv.twice(hidden) for name, kv in features.items()}
            full, reduced = velocity(torch.cat([sample, sample]), timestep, both, twice).chunk(2)
        return combine(full, reduced, self.guidance.scale(step))


def _possible(step: Step, has_neighbors: bool) -> Step:
    """Without neighbors there is nothing to leave out but the text."""
    return step if has_neighbors or step is Step.PLAIN else Step.TEXT


def initial_noise(seeds: list[int], shape: tuple[int, int, int]) -> Tensor:
    """(B, C, H, W) standard normal; each image has a generator of its own, so the batch size does not matter."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
