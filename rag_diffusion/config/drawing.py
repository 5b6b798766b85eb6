"""Sections of params.yaml about what is drawn, judged, refused and marked."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rag_diffusion.config.section import Positive, Probability, Section

_Thresholding = Literal["static", "dynamic", "palette", "none"]


class UpsamplingConfig(Section):
    """How the further stages of a cascade draw; the fields are those of `sampling.cascade.StageSettings`."""

    num_inference_steps: int = Positive
    noise_level: int = Field(ge=0, le=999)
    text_guidance_scale: float
    batch_size: int = Positive
    tile_size: int = Field(ge=0)


class SampleConfig(Section):
    """What is drawn, and how."""

    prompts: Literal["default", "all", "validation"]
    variants: list[Literal["none", "style", "random", "retrieved", "oracle"]]
    scheduler: str
    num_inference_steps: int = Positive
    guidance: Literal["none", "text", "neighbor", "alternate", "interleaved", "joint"]
    text_guidance_scale: float
    neighbor_guidance_scale: float
    interleave_ratio: float = Probability
    parallel_share: float = Probability
    begin_strength: float = Field(default=1.0, gt=0, le=1)
    thresholding: _Thresholding = "static"
    weight_by_step: str
    weight_by_map: str
    precision: Literal["auto", "fp32", "bf16"]
    batch_size: int = Positive
    upsampling: UpsamplingConfig


class ScoreConfig(Section):
    """How images are judged."""

    extractor: Literal["embedded", "inception"]
    inception_weights: str
    bootstrap_draws: int = Positive
    min_real_accuracy: float = Probability


class EvaluateConfig(Section):
    """The full protocol, `rag-diffusion evaluate`."""

    prompts: Literal["default", "all"]
    degraded_strength: float = Field(gt=0, le=1)
    curve_prompts: int = Field(ge=1)
    curve_text_scales: list[float]
    curve_neighbor_scales: list[float]
    shown: int = Field(ge=1)


class SweepConfig(Section):
    """The stage `sweep`: every kind of guidance with every number of neighbors."""

    guidance: list[str]
    num_neighbors: list[int]
    num_prompts: int = Field(ge=1)


class SafetyConfig(Section):
    """What is neither drawn nor retrieved; nothing is left out by default."""

    checker: str = ""
    words: list[str] = Field(default_factory=list)
    concepts: list[str] = Field(default_factory=list)
    concept_cosine: float = Field(default=0.45, gt=0.0, le=1.0)


class MarksConfig(Section):
    """What every picture carries: an invisible watermark, signed credentials; neither by default."""

    watermark: str = ""
    credentials: str = ""
