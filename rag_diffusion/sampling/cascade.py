"""Further stages of a cascade: images of one resolution in, of a higher one out [0080].

    low -> u_s = up(low noised to s) -> T steps of the stage's own scheduler -> image

A stage gets the finished 8-bit image of the one before, so that one drawn with `stages=1` and upsampled later is the
same. Noise comes from each image's own seed and the number of the stage: the rest of the batch does not matter.

Shapes: B images, l side of a low-resolution image, H of a large one, D/h/w the U-Net's input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rag_diffusion.arrays import Pixels
from rag_diffusion.device import autocast
from rag_diffusion.models.codec import PixelCodec, images_to_pixels, pixels_to_images
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.models.neighbor_control import BOTH
from rag_diffusion.models.parametrisation import to_clean
from rag_diffusion.models.super_resolution import SuperResolution
from rag_diffusion.models.text_encoder import TextFeatures
from rag_diffusion.sampling.cascade_stages import CascadeStage, StageSettings, settings_facts
from rag_diffusion.sampling.denoise import check_fits, denoise, make_scheduler, takes_variance
from rag_diffusion.sampling.execution import Execution
from rag_diffusion.sampling.guidance import combine
from rag_diffusion.sampling.neighbor_cache import NeighborCache
from rag_diffusion.sampling.output import RetrievalPipelineOutput, as_arrays, enough_memory, to_output
from rag_diffusion.sampling.provenance import Provenance
from rag_diffusion.sampling.request import SamplingRequest
from rag_diffusion.sampling.seeds import initial_noise, seeded
from rag_diffusion.sampling.threshold import local_bounds, threshold
from rag_diffusion.sampling.tiles import tiled
from rag_diffusion.spans import span

_SEED_STRIDE = 0x5EED_CA5C  # between the noise of an image's stages

_REMEDY = "lower batch_size in its StageSettings, set tile_size there, or draw fewer stages by stages="
OnStageStep = Callable[[int, int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Upsampling:
    """One stage at work.

    Attributes:
        stage: the model.
        settings: how it draws.
        number: of the stage in its cascade, from 2.
        precision: of autocast.
        progress: makes a bar for so many calls of the network.
        on_step: gets the number of the stage and of a finished step, its timestep, z_t and the estimate of z_0, and
            returns the z_t that goes on; all images are then drawn at once.
        interrupted: asked after each step; true takes no other.
    """

    stage: CascadeStage
    settings: StageSettings
    number: int = 2
    precision: str = "fp32"
    progress: Callable[[int], AbstractContextManager[Any]] | None = None
    on_step: OnStageStep | None = None
    interrupted: Callable[[], bool] | None = None

    @torch.no_grad()
    def run(
        self,
        low: Pixels,
        prompts: Sequence[str],
        seeds: Sequence[int],
        noise: str = "cpu",
        neighbors: Sequence[Sequence[Neighbor]] | None = None,
    ) -> Tensor:
        """Draw.

        Args:
            low: (B, l, l, 3) uint8 images of the stage before.
            prompts: B texts.
            seeds: B, those of the images.
            noise: type of device where noise is drawn.
            neighbors: of each image; a stage that was trained without neighbors looks at none. Masks and weights by
                step or map are the first stage's affair, negative neighbors too.

        Returns:
            (B, 3, H, H) in [-1, 1], on the CPU.

        Raises:
            ValueError: images of another size than the stage takes.
            ModelError: out of memory.
        """
        model, settings = self.stage.model, self.settings
        self.stage.check(settings)
        if low.shape[1:] != (model.low_size, model.low_size, 3):
            raise ValueError(
                f"stage {self.number}: expected images of {model.low_size} x {model.low_size} px, got "
                f"{' x '.join(map(str, low.shape[1:3]))}; scale them first"
            )
        size = len(low) if self.on_step is not None else settings.batch_size
        scheduler = make_scheduler(settings.scheduler, model.schedule)
        scheduler.set_timesteps(settings.num_inference_steps, device=model.device)
        check_fits(scheduler, model.schedule)
        shown = _looked_at(model, settings, neighbors) or [[]] * len(low)
        parts = [slice(start, start + size) for start in range(0, len(low), size)]
        calls = len(parts) * len(scheduler.timesteps)
        bar: AbstractContextManager[Any] = nullcontext() if self.progress is None else self.progress(calls)
        with span("upsample", stage=self.number, images=len(low)), bar as told:
            if hasattr(told, "set_description"):
                told.set_description(f"stage {self.number}, {model.image_size} px")
            drawn = []
            for part in parts:
                with enough_memory(len(low[part]), f"stage {self.number}, {model.image_size} px", _REMEDY):
                    drawn.append(self._drawn(low[part], prompts[part], seeds[part], shown[part], noise, told))
            return torch.cat(drawn)

    def _drawn(
        self,
        low: Pixels,
        prompts: Sequence[str],
        seeds: Sequence[int],
        neighbors: Sequence[Sequence[Neighbor]],
        noise: str,
        bar: Any,
    ) -> Tensor:
        model, settings, device = self.stage.model, self.settings, self.stage.model.device
        scheduler = make_scheduler(settings.scheduler, model.schedule)
        scheduler.set_timesteps(settings.num_inference_steps, device=device)
        generators = seeded([(seed + self.number * _SEED_STRIDE) % 2**63 for seed in seeds], noise)
        images = pixels_to_images(torch.from_numpy(np.ascontiguousarray(low))).to(device)
        levels = torch.full((len(low),), settings.noise_level, device=device)
        side = model.augmentation_size
        added = initial_noise(generators, (3, side, side), None).to(device)
        bound = model.beside(images, levels, added)
        begin = initial_noise(generators, model.sample_shape, None).to(device)
        bounds = local_bounds(images, model.image_size)
        guided = settings.text_guidance_scale != 1
        text = model.text_encoder(prompts).to(device)
        if guided:
            text = TextFeatures.cat([text, model.text_encoder([""] * len(prompts)).to(device)])
        with autocast(self.precision, device):
            features = NeighborCache(model).features([*neighbors] * (1 + guided))
        last = [begin]
        learned, channels = takes_variance(scheduler), model.sample_shape[0]

        def predict(number: int, sample: Tensor, timestep: Tensor) -> Tensor:
            copies = torch.cat([sample] * (1 + guided))

            def at(part: SuperResolution, there: Tensor) -> Tensor:
                return part.predict(there, timestep, text, features)

            with autocast(self.precision, device):
                output = tiled(bound, copies, settings.tile_size, at) if settings.tile_size else at(bound, copies)
            full = output[: len(sample)]
            mean, variance = full[:, :channels], full[:, channels:]
            if guided:
                mean = combine(mean, output[len(sample) :, :channels], settings.text_guidance_scale)
            mean = threshold(bound, settings.thresholding, sample, timestep, mean, bounds)
            last[0] = to_clean(model.prediction_type, sample, mean, model.alphas_cumprod(timestep))
            return torch.cat([mean, variance], dim=1) if learned else mean

        def after(number: int, timestep: Tensor, sample: Tensor) -> Tensor:
            if bar is not None:
                bar.update()
            return sample if self.on_step is None else self.on_step(self.number, number, timestep, sample, last[0])

        clean = denoise(scheduler, begin, predict, generators=generators, on_step=after, interrupted=self.interrupted)
        return bound.codec.decode(clean).float().clamp(-1, 1).cpu()


def _looked_at(
    model: SuperResolution, settings: StageSettings, neighbors: Sequence[Sequence[Neighbor]] | None
) -> list[list[Neighbor]] | None:
    """The neighbors that a stage looks at: plain ones, as many as it was trained with."""
    if not model.num_neighbors or neighbors is None:
        return None
    if settings.tile_size:
        raise ValueError("tile_size: expected 0 of a stage that looks at neighbors, which see the picture as a whole")
    return [
        [
            replace(neighbor, weight_by_step=(), weight_by_map=BOTH, mask=None)
            for neighbor in chosen
            if not neighbor.negative and neighbor.role == "content"
        ][: model.num_neighbors]
        for chosen in neighbors
    ]


def execute(
    execution: Execution,
    request: SamplingRequest,
    further: Sequence[tuple[CascadeStage, StageSettings]],
    on_step: OnStageStep | None = None,
) -> RetrievalPipelineOutput:
    """The first stage, then the further ones; the provenance tells of all of them.

    Args:
        execution: of the first stage; precision and progress are those of all.
        request: B images.
        further: super-resolution stages with their settings.
        on_step: of these.

    Raises:
        ValueError: `latent` was asked for, which a cascade has not.
        ModelError: out of memory.
    """
    if not further:
        return execution.run(request)
    if request.output_type == "latent":
        raise ValueError("output_type: expected pil, np or pt of a cascade, got latent; draw with stages=1")
    drawn = execution.run(replace(request, output_type="pil"))
    if execution.state.interrupted:  # what there is, of the first stage
        images = pixels_to_images(torch.from_numpy(as_arrays(drawn.images)))
        return replace(drawn, images=to_output(PixelCodec(), images, request.output_type))
    changed = [execution.changed]
    images = enlarge(
        as_arrays(drawn.images),
        request.prompts,
        request.seeds,
        further,
        noise=request.noise,
        neighbors=request.source.first() if any(stage.model.num_neighbors for stage, _ in further) else None,
        precision=execution.precision,
        progress=execution.progress,
        on_step=None if on_step is None else partial(_noticed, on_step, changed),
        interrupted=lambda: execution.state.interrupted,
    )
    provenance = further_told(drawn.provenance, further, execution.precision, changed=changed[0])
    return replace(drawn, images=to_output(PixelCodec(), images, request.output_type), provenance=provenance)


def enlarge(
    low: Pixels,
    prompts: Sequence[str],
    seeds: Sequence[int],
    further: Sequence[tuple[CascadeStage, StageSettings]],
    *,
    neighbors: Sequence[Sequence[Neighbor]] | None = None,
    noise: str = "cpu",
    precision: str = "fp32",
    progress: Callable[[int], AbstractContextManager[Any]] | None = None,
    on_step: OnStageStep | None = None,
    interrupted: Callable[[], bool] | None = None,
) -> Tensor:
    """Images of the first stage through the further ones.

    Args:
        low: (B, l, l, 3) uint8 images of the first stage.
        prompts: B texts.
        seeds: B, those of the images.
        further: one or more super-resolution stages with their settings.
        neighbors: of each image, for stages that were trained with neighbors.
        noise: type of device where noise is drawn.
        precision: of autocast.
        progress: makes a bar for so many calls of the network.
        on_step: as `Upsampling.on_step`.
        interrupted: as `Upsampling.interrupted`.

    Returns:
        (B, 3, H, H) in [-1, 1], on the CPU.

    Raises:
        ValueError: images of another size than the first of the stages takes.
        ModelError: out of memory.
    """
    for number, (stage, settings) in enumerate(further, start=2):
        images = Upsampling(
            stage=stage,
            settings=settings,
            number=number,
            precision=precision,
            progress=progress,
            on_step=on_step,
            interrupted=interrupted,
        ).run(low, prompts, seeds, noise, neighbors)
        low = images_to_pixels(images).numpy()
    return images


def further_told(
    provenance: Sequence[Provenance],
    further: Sequence[tuple[CascadeStage, StageSettings]],
    precision: str,
    *,
    changed: bool = False,
) -> list[Provenance]:
    """The `provenance` of first-stage images, telling of the `further` stages too.

    Args:
        provenance: B.
        further: the stages that drew, with their settings.
        precision: of autocast.
        changed: a callback changed what was drawn.
    """
    facts: dict[str, Any] = {"stages": [settings_facts(*pair, precision) for pair in further]}
    if changed:
        facts["changed_by_callback"] = True
    return [replace(origin, settings=origin.settings | facts) for origin in provenance]


def _noticed(
    on_step: OnStageStep,
    changed: list[bool],
    stage: int,
    number: int,
    timestep: Tensor,
    sample: Tensor,
    clean: Tensor,
) -> Tensor:
    """What a callback makes of z_t; notes whether it is another one."""
    found = on_step(stage, number, timestep, sample, clean)
    changed[0] |= found is not sample
    return found
