"""Further stages of a cascade: images of one resolution in, of a higher one out [0080].

    low -> u_s = up(low noised to s) -> T steps of the stage's own scheduler -> image

A stage gets the finished 8-bit image of the one before, so that one drawn with `stages=1` and upsampled later is the
same. Noise comes from each image's own seed and the number of the stage: the rest of the batch does not matter.

Shapes: B images, l side of a low-resolution image, H of a large one, D/h/w the U-Net's input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rag_diffusion.arrays import Pixels
from rag_diffusion.device import autocast
from rag_diffusion.errors import LineageError, ModelError
from rag_diffusion.models.codec import PixelCodec, images_to_pixels, pixels_to_images
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.parametrisation import to_clean
from rag_diffusion.models.super_resolution import SuperResolution
from rag_diffusion.models.text_encoder import TextFeatures
from rag_diffusion.sampling.denoise import (
    DEFAULT_SCHEDULER,
    check_fits,
    check_scheduler,
    denoise,
    make_scheduler,
    takes_variance,
)
from rag_diffusion.sampling.execution import Execution
from rag_diffusion.sampling.guidance import combine
from rag_diffusion.sampling.output import RetrievalPipelineOutput, as_arrays, to_output
from rag_diffusion.sampling.request import SamplingRequest, computed_in
from rag_diffusion.sampling.seeds import initial_noise, seeded
from rag_diffusion.sampling.threshold import Thresholding, check_thresholding, threshold
from rag_diffusion.spans import span

_SEED_STRIDE = 0x5EED_CA5C  # between the noise of an image's stages

OnStageStep = Callable[[int, int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """How a super-resolution stage draws.

    Attributes:
        scheduler: one of `denoise.SCHEDULERS`.
        num_inference_steps: T.
        text_guidance_scale: w; 1 is no guidance, which costs one call of the network a step.
        thresholding: `static`, `dynamic` or `none`.
        noise_level: s, how far the low-resolution image is noised, in timesteps of the variance schedule; 0 trusts it.
        batch_size: images drawn at once, which bounds the memory; no pixel depends on it.

    Raises:
        ValueError: a number is out of range.
        ConfigError: there is no such scheduler.

    Example:
        >>> from rag_diffusion.sampling.cascade import StageSettings
        >>> StageSettings(num_inference_steps=5, noise_level=40).scheduler
        'DDIMScheduler'
    """

    scheduler: str = DEFAULT_SCHEDULER
    num_inference_steps: int = 10
    text_guidance_scale: float = 1.0
    thresholding: Thresholding = "static"
    noise_level: int = 0
    batch_size: int = 8

    def __post_init__(self) -> None:
        check_scheduler(self.scheduler)
        check_thresholding(self.thresholding)
        for name in ("num_inference_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if not np.isfinite(self.text_guidance_scale):
            raise ValueError(f"text_guidance_scale: expected a finite number, got {self.text_guidance_scale}")


@dataclass(kw_only=True)
class CascadeStage:
    """A super-resolution model and how it draws."""

    model: SuperResolution
    settings: StageSettings

    def check(self, settings: StageSettings) -> None:
        """Refuse `settings` that the model was not trained for.

        Raises:
            ValueError: s is outside of what was trained.
        """
        if not 0 <= settings.noise_level <= self.model.max_noise_level:
            raise ValueError(
                f"noise_level: expected 0 to {self.model.max_noise_level}, as the super-resolution stage for "
                f"{self.model.image_size} px was trained, got {settings.noise_level}"
            )


def check_chain(generator: Generator, stages: Sequence[CascadeStage]) -> None:
    """Refuse stages that cannot follow each other.

    Args:
        generator: the first stage.
        stages: the others.

    Raises:
        ModelError: a stage takes images of another size than the one before draws, or cannot read its text encoder.
        ValueError: a setting is outside of what a stage was trained for.
    """
    size = generator.image_size
    for number, stage in enumerate(stages, start=2):
        model = stage.model
        if model.low_size != size:
            raise ModelError(
                f"cascade: expected stage {number} to take images of {size} px, which the stage before draws, got one "
                f"for {model.low_size} px; leave it out, or put the stage between"
            )
        width, wanted = getattr(model.text_encoder, "width", None), model.unet.config.encoder_hid_dim
        if width is not None and wanted is not None and width != wanted:
            raise ModelError(
                f"cascade: expected stage {number} with a text encoder of width {wanted}, which its network reads, got "
                f"one of width {width}; load it with its own text encoder"
            )
        stage.check(stage.settings)
        size = model.image_size


def settings_of(
    stages: Sequence[CascadeStage], count: int | None, given: Sequence[StageSettings] | None
) -> list[tuple[CascadeStage, StageSettings]]:
    """The further stages that a call draws with.

    Args:
        stages: those that there are, from the second on.
        count: stages in all, the first one counted; None: all of them.
        given: settings of the stages from the second on; None: their own.

    Raises:
        ValueError: there are not so many, or a setting does not fit.
    """
    most = len(stages) + 1
    if count is not None and not 1 <= count <= most:
        raise ValueError(f"stages: expected 1 to {most}, as many as this pipeline has, got {count}")
    chosen = list(stages[: (count or most) - 1])
    if given is not None and len(given) != len(chosen):
        raise ValueError(
            f"stage_settings: expected settings for {len(chosen)} super-resolution stages, got {len(given)}"
        )
    pairs = [(stage, stage.settings if given is None else given[row]) for row, stage in enumerate(chosen)]
    for stage, settings in pairs:
        stage.check(settings)
    return pairs


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
    """

    stage: CascadeStage
    settings: StageSettings
    number: int = 2
    precision: str = "fp32"
    progress: Callable[[int], AbstractContextManager[Any]] | None = None
    on_step: OnStageStep | None = None

    @torch.no_grad()
    def run(self, low: Pixels, prompts: Sequence[str], seeds: Sequence[int], noise: str = "cpu") -> Tensor:
        """Draw.

        Args:
            low: (B, l, l, 3) uint8 images of the stage before.
            prompts: B texts.
            seeds: B, those of the images.
            noise: type of device where noise is drawn.

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
        parts = [slice(start, start + size) for start in range(0, len(low), size)]
        bar = None if self.progress is None else self.progress(len(parts) * len(scheduler.timesteps))
        with span("upsample", stage=self.number, images=len(low)):
            if bar is None:
                return torch.cat([self._part(low[part], prompts[part], seeds[part], noise, None) for part in parts])
            with bar as shown:
                if hasattr(shown, "set_description"):
                    shown.set_description(f"stage {self.number}, {model.image_size} px")
                return torch.cat([self._part(low[part], prompts[part], seeds[part], noise, shown) for part in parts])

    def _part(self, low: Pixels, prompts: Sequence[str], seeds: Sequence[int], noise: str, bar: Any) -> Tensor:
        try:
            return self._drawn(low, prompts, seeds, noise, bar)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in str(
                error
            ):
                raise
            raise ModelError(
                f"out of memory while stage {self.number} draws {len(low)} images of {self.stage.model.image_size} px "
                "at once: lower batch_size in its StageSettings, use precision bf16, draw fewer stages by stages=, or "
                "call enable_model_cpu_offload()"
            ) from error

    def _drawn(self, low: Pixels, prompts: Sequence[str], seeds: Sequence[int], noise: str, bar: Any) -> Tensor:
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
        guided = settings.text_guidance_scale != 1
        text = model.text_encoder(prompts).to(device)
        if guided:
            text = TextFeatures.cat([text, model.text_encoder([""] * len(prompts)).to(device)])
        last = [begin]
        learned, channels = takes_variance(scheduler), model.sample_shape[0]

        def predict(number: int, sample: Tensor, timestep: Tensor) -> Tensor:
            with autocast(self.precision, device):
                output = bound.predict(torch.cat([sample] * (1 + guided)), timestep, text, None)
            full = output[: len(sample)]
            mean, variance = full[:, :channels], full[:, channels:]
            if guided:
                mean = combine(mean, output[len(sample) :, :channels], settings.text_guidance_scale)
            mean = threshold(bound, settings.thresholding, sample, timestep, mean)
            last[0] = to_clean(model.prediction_type, sample, mean, model.alphas_cumprod(timestep))
            return torch.cat([mean, variance], dim=1) if learned else mean

        def after(number: int, timestep: Tensor, sample: Tensor) -> Tensor:
            if bar is not None:
                bar.update()
            return sample if self.on_step is None else self.on_step(self.number, number, timestep, sample, last[0])

        clean = denoise(scheduler, begin, predict, generators=generators, on_step=after)
        return bound.codec.decode(clean).float().clamp(-1, 1).cpu()


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
    low = as_arrays(drawn.images)
    changed = [execution.changed]
    for number, (stage, settings) in enumerate(further, start=2):
        images = Upsampling(
            stage=stage,
            settings=settings,
            number=number,
            precision=execution.precision,
            progress=execution.progress,
            on_step=None if on_step is None else partial(_noticed, on_step, changed),
        ).run(low, request.prompts, request.seeds, request.noise)
        low = images_to_pixels(images).numpy()
    facts: dict[str, Any] = {"stages": [_told(stage, settings, execution.precision) for stage, settings in further]}
    if changed[0]:
        facts["changed_by_callback"] = True
    provenance = [replace(origin, settings=origin.settings | facts) for origin in drawn.provenance]
    return replace(drawn, images=to_output(PixelCodec(), images, request.output_type), provenance=provenance)


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


def _told(stage: CascadeStage, settings: StageSettings, precision: str) -> dict[str, Any]:
    """What decides the pixels of a stage, for the provenance."""
    facts = {name: value for name, value in asdict(settings).items() if name != "batch_size"}
    return facts | {
        "model_hash": stage.model.fingerprint,
        "image_size": stage.model.image_size,
        "precision": computed_in(precision, stage.model.device),
        "weights": str(stage.model.unet.dtype).removeprefix("torch."),
    }


def settings_told(
    stages: Sequence[CascadeStage], told_stages: Sequence[Mapping[str, Any]]
) -> list[tuple[CascadeStage, StageSettings]]:
    """The stages that drew an image, with the settings that they had.

    Args:
        stages: those of this pipeline, from the second on.
        told_stages: of the provenance.

    Raises:
        LineageError: this pipeline has other ones.
    """
    if len(told_stages) > len(stages):
        raise LineageError(
            f"redraw: expected the {len(told_stages) + 1} stages that drew the picture, and this pipeline has "
            f"{len(stages) + 1}; load the cascade that drew it"
        )
    pairs = []
    names = {field.name for field in fields(StageSettings)}
    for number, (stage, facts) in enumerate(zip(stages, told_stages, strict=False), start=2):
        if facts["model_hash"] != stage.model.fingerprint:
            raise LineageError(
                f"redraw: expected stage {number} to be model {facts['model_hash'][:12]}, which drew the picture, got "
                f"{stage.model.fingerprint[:12] or 'one without a hash'}; load that one"
            )
        pairs.append((stage, StageSettings(**{name: value for name, value in facts.items() if name in names})))
    return pairs
