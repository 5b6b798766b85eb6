"""An order carried out: neighbors, noise, the loop, images, and where each came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rag_diffusion.errors import MixedBatchError
from rag_diffusion.models.codec import pixels_to_images
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.sampling.conditioning import Conditioning
from rag_diffusion.sampling.denoise import check_fits, set_timesteps, solver_steps, start_at
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.inpainting import cells_anew
from rag_diffusion.sampling.loop import Loop
from rag_diffusion.sampling.neighbor_cache import NeighborCache
from rag_diffusion.sampling.output import RetrievalPipelineOutput, enough_memory, to_output
from rag_diffusion.sampling.provenance import Provenance
from rag_diffusion.sampling.request import SamplingRequest
from rag_diffusion.sampling.seeds import initial_noise, seeded
from rag_diffusion.sampling.steering import DrawingState
from rag_diffusion.spans import span


@dataclass(kw_only=True)
class Execution:
    """A network and a scheduler at work on one order.

    Args:
        generator: the network.
        scheduler: of diffusers.
        precision: of autocast.
        progress: makes a bar for so many calls of the network.

    Attributes:
        changed: whether a callback has changed what is drawn.
        state: guidance and texts of the drawing, which a callback may change.
    """

    generator: Generator
    scheduler: Any
    precision: str
    progress: Callable[[int], AbstractContextManager[Any]]
    changed: bool = False
    state: DrawingState = field(default_factory=lambda: DrawingState(guidance=Guidance()))

    def run(self, request: SamplingRequest) -> RetrievalPipelineOutput:
        """Draw.

        Args:
            request: what all images depend on but the network.

        Returns:
            Images, their provenance and heat maps.

        Raises:
            ValueError: something of the request does not fit.
            ConfigError: the scheduler is none that fits.
            ModelError: out of memory.
        """
        model, scheduler = self.generator, self.scheduler
        self.state = request.state or DrawingState(guidance=request.guidance)
        lists = request.source.first()
        request = _begun(request, lists, model.size)
        set_timesteps(scheduler, request.num_inference_steps, model.device, request.timesteps, request.sigmas)
        check_fits(scheduler, model.schedule)
        first = 0 if request.pictures is None else start_at(scheduler, request.strength)
        calls = solver_steps(scheduler)[first:]
        num_steps = calls[-1] - calls[0] + 1
        _check_negative(lists, request.guidance)
        conditioning = Conditioning(
            cache=NeighborCache(model),
            lists=lists,
            phases=request.phases(num_steps),
            find=request.source.again,
            num_steps=num_steps,
        )
        generators = seeded(request.seeds, request.noise)
        noise = initial_noise(generators, model.sample_shape, request.latents).to(model.device)
        with enough_memory(len(request.prompts)), conditioning, self.progress(len(calls)) as bar:
            loop = self._loop(request, first, bar)
            with span("denoise", steps=len(calls), images=len(request.prompts)):
                clean = loop.run(noise, generators, conditioning)
            with span("decode"):
                images = to_output(model.codec, clean, request.output_type)
        return self._told(request, images, conditioning)

    def _loop(self, request: SamplingRequest, first: int, bar: Any) -> Loop:
        def after(number: int, timestep: Tensor, sample: Tensor, clean: Tensor) -> Tensor:
            bar.update()
            found = sample if request.on_step is None else request.on_step(number, timestep, sample, clean)
            self.changed |= found is not sample
            return found

        return Loop(
            generator=self.generator,
            scheduler=self.scheduler,
            prompts=request.prompts,
            state=self.state,
            thresholding=request.thresholding,
            palettes=request.palettes or [None] * len(request.prompts),
            seeds=request.seeds,
            precision=self.precision,
            clean=self._clean(request),
            anew=self._anew(request),
            first=first,
            negative=request.negative_prompts,
            embeddings=request.embeddings,
            images=request.images,
            eta=request.eta,
            on_step=after,
        )

    def _clean(self, request: SamplingRequest) -> Tensor | None:
        """x_0 of the pictures to begin with, (B, D, h, w)."""
        if request.pictures is None:
            return None
        images = pixels_to_images(torch.from_numpy(request.pictures)).to(self.generator.device)
        return self.generator.codec.encode(images).float()

    def _anew(self, request: SamplingRequest) -> Tensor | None:
        """Which cells of the pictures are drawn, (B, 1, h, w)."""
        if request.masks is None:
            return None
        _, height, width = self.generator.sample_shape
        return cells_anew(request.masks, (height, width), self.generator.device)

    def _told(self, request: SamplingRequest, images: Any, conditioning: Conditioning) -> RetrievalPipelineOutput:
        looked, model = conditioning.looked(), self.generator
        by_hand = {"changed_by_callback": True} if self.changed or self.state.changed else {}
        by_hand |= {"interrupted": True} if self.state.interrupted else {}
        provenance = [
            Provenance(
                prompt=request.prompts[row],
                seed=request.seeds[row],
                corpus_hash=request.source.corpus_hashes[row],
                model_hash=model.fingerprint,
                data_sets=request.source.data_sets[row],
                neighbors=one.sources(model.size, keep=request.keep),
                null_attention=round(one.null, 5),
                settings=request.settings(model, self.scheduler, self.precision, row) | by_hand,
                phases=one.phases,
            )
            for row, one in enumerate(looked)
        ]
        return RetrievalPipelineOutput(
            images=images, provenance=provenance, heat_maps=[list(one.heat) for one in looked]
        )


def _begun(request: SamplingRequest, lists: Sequence[Sequence[Neighbor]], size: tuple[int, int]) -> SamplingRequest:
    """The request with the first content neighbor of each image to begin with, where it asks for that.

    Raises:
        MixedBatchError: some of the images have one and others have not.
    """
    if request.begin_strength == 1:
        return request
    first = [next((one for one in own if one.role == "content" and not one.negative), None) for own in lists]
    found = [one for one in first if one is not None]
    if not found:
        return request
    if len(found) < len(first):
        text = request.prompts[first.index(None)]
        raise MixedBatchError(
            f"begin_strength: expected a neighbor for every prompt or for none, got none for {text!r}; draw it by "
            "itself, where it begins with noise"
        )
    pictures = np.stack([one.pixels(size) for one in found])
    return replace(request, pictures=pictures, strength=request.begin_strength)


def _check_negative(lists: Sequence[Sequence[Neighbor]], guidance: Guidance) -> None:
    """Refuse negative neighbors that nothing would be guided away from."""
    names = [neighbor.name for neighbors in lists for neighbor in neighbors if neighbor.negative]
    if names and not guidance.guides:
        raise ValueError(
            f"neighbor {names[0]!r}: expected guidance, which goes away from a negative neighbor, got mode "
            f"{guidance.mode!r} with scales {guidance.text_guidance_scale} and {guidance.neighbor_guidance_scale}; "
            "choose another mode or scale, or leave the neighbor out"
        )
