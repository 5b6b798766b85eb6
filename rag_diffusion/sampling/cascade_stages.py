"""The further stages of a cascade: how each draws, and which of them can follow which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from rag_diffusion.config import UpsamplingConfig
from rag_diffusion.errors import LineageError, ModelError
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.super_resolution import SuperResolution
from rag_diffusion.sampling.denoise import DEFAULT_SCHEDULER, check_scheduler
from rag_diffusion.sampling.request import computed_in
from rag_diffusion.sampling.threshold import StageThresholding, check_thresholding


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """How a super-resolution stage draws.

    Attributes:
        scheduler: one of `denoise.SCHEDULERS`.
        num_inference_steps: T.
        text_guidance_scale: w; 1 is no guidance, which costs one call of the network a step.
        thresholding: `local`, `static`, `dynamic` or `none`, see `sampling.threshold`.
        noise_level: s, how far the low-resolution image is noised, in timesteps of the variance schedule; 0 trusts it.
        batch_size: images drawn at once, which bounds the memory; no pixel depends on it.
        tile_size: side in pixels of the overlapping tiles that a large image is predicted by; 0 is the whole at once.

    Raises:
        ValueError: a number is out of range.
        ConfigError: there is no such scheduler.

    Examples:
        >>> from rag_diffusion.sampling.cascade_stages import StageSettings
        >>> StageSettings(num_inference_steps=5, noise_level=40).scheduler
        'DDIMScheduler'
    """

    scheduler: str = DEFAULT_SCHEDULER
    num_inference_steps: int = 2
    text_guidance_scale: float = 1.0
    thresholding: StageThresholding = "local"
    noise_level: int = 0
    batch_size: int = 8
    tile_size: int = 0

    def __post_init__(self) -> None:
        check_scheduler(self.scheduler)
        check_thresholding(self.thresholding, local=True)
        for name in ("num_inference_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if not np.isfinite(self.text_guidance_scale):
            raise ValueError(f"text_guidance_scale: expected a finite number, got {self.text_guidance_scale}")

    @classmethod
    def from_config(cls, config: UpsamplingConfig) -> StageSettings:
        """As `sample.upsampling` of params.yaml, `config`, says."""
        return cls(**config.model_dump())


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


def settings_facts(stage: CascadeStage, settings: StageSettings, precision: str) -> dict[str, Any]:
    """What decides the pixels of a stage, for the provenance.

    Args:
        stage: that drew.
        settings: that it drew with.
        precision: of autocast, as `RetrievalPipeline` takes it.
    """
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
