"""Sections of params.yaml about generators and how they are trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rag_diffusion.config.section import Positive, Probability, Section


class ModelConfig(Section):
    """Architecture of the base generator."""

    patch_size: int = Positive
    block_out_channels: list[int]
    layers_per_block: int = Positive
    text_encoder: str
    max_text_tokens: int = Field(ge=4, le=512)
    neighbor_skips: list[int]
    neighbor_head_dim: int = Positive
    neighbor_encoder: Literal["shared", "separate"]
    neighbor_fine_skips: list[int]
    neighbor_fine_dim: int = Positive
    neighbor_free_heads: float = Probability
    neighbor_roles: bool


class OptimizationConfig(Section):
    """How weights are moved; every training has it."""

    steps: int = Positive
    batch_size: int = Positive
    optimizer: Literal["adamw", "muon"]
    accumulation: int = Positive
    learning_rate: float = Positive
    warmup_steps: int = Field(ge=0)
    max_grad_norm: float = Positive
    ema_decay: float = Field(ge=0.0, lt=1.0)
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    checkpoint_every: int = Positive
    validate_every: int = Positive
    max_minutes: float = Field(ge=0.0)


class ObjectiveConfig(OptimizationConfig):
    """What a training with neighbors minimises."""

    objective: Literal["v_prediction", "epsilon", "sample"]
    weighting: Literal["constant", "snr", "min_snr", "p2"]
    neighbor_gradient: bool


class TrainConfig(ObjectiveConfig):
    """One training run with neighbors; `pretrain` and `finetune` share the form."""

    group_size: int = Positive
    focus_styles: list[str]
    focus_share: float = Probability
    style_neighbors: int = Field(ge=0)
    style_share: float = Probability
    wrong_neighbors: float = Probability
    only_wrong_neighbors: float = Probability
    drop_both: float = Probability
    drop_text: float = Probability
    drop_neighbors: float = Probability
    augment_targets: float = Probability
    augment_neighbors: float = Probability
    augment_flip: float = Probability
    augment_shift: int = Field(ge=0)
    augment_scale: list[Annotated[float, Field(gt=0.05, lt=10)]] = Field(min_length=2, max_length=2)
    augment_turn: float = Field(ge=0.0, le=180.0)
    augment_beside: float = Probability
    augment_together: float = Probability
    score_every: int = Field(ge=0)


class PretrainConfig(TrainConfig):
    """The base generator's training, from scratch or from the weights in `start`."""

    start: str


class FinetuneConfig(TrainConfig):
    """Fine-tuning continues from the weights in `base`; no steps leave it as it is."""

    steps: int = Field(ge=0)
    base: str
    neighbor_skips: list[int]
    neighbor_free_heads: float = Probability
    neighbor_prior_strength: float = Field(ge=0.0)
    prior_learning_rate: float = Positive
    trainable: Literal["all", "neighbors", "lora"]
    lora_rank: int = Positive
    cascade: str


class ClipsTrainConfig(ObjectiveConfig):
    """The training of an adapter on clips: each target is a frame, its neighbors are earlier ones."""

    base: str
    trainable: Literal["neighbors", "decoder", "lora"]
    lora_rank: int = Positive
    neighbor_fine_skips: list[int]
    neighbor_fine_dim: int = Positive
    strides: list[Annotated[int, Field(ge=1, le=16)]] = Field(min_length=1)
    max_earlier: int = Field(ge=0, le=8)
    degrade: float = Probability
    own_estimates: float = Probability
    knowledge: float = Probability
    mirror: float = Probability
    drop_both: float = Probability
    drop_text: float = Probability
    drop_neighbors: float = Probability


class ClipsScoreConfig(Section):
    """How rollouts are measured."""

    split: Literal["validation", "test"]
    max_clips: int = Field(ge=1)
    num_frames: int = Field(ge=3, le=1000)
    stride: int = Positive
    variants: list[str]
    num_inference_steps: int = Positive
    guidance: Literal["none", "text", "neighbor", "alternate", "interleaved", "joint"]
    text_guidance_scale: float
    neighbor_guidance_scale: float
    fresh_noise: bool
    first_weight: float = Field(ge=0)
    sdedit_strength: float = Field(gt=0, le=1)
    precision: Literal["auto", "fp32", "bf16"]
    batch_size: int = Positive


class ClipsConfig(Section):
    """The corpus of clips, the training on it, and its measures."""

    sources: str
    every: int = Positive
    min_frames: int = Field(ge=2)
    max_frames: int = Field(ge=2, le=1000)
    train: ClipsTrainConfig
    score: ClipsScoreConfig


class UpsampleModelConfig(Section):
    """Architecture of a super-resolution stage, and between which sizes it stands."""

    low_size: int = Field(ge=8, le=1024)
    image_size: int = Field(ge=16, le=4096)
    patch_size: int = Positive
    block_out_channels: list[int] = Field(min_length=1)
    layers_per_block: list[int] = Field(min_length=1)
    neighbor_skips: list[int]
    text_encoder: str
    max_text_tokens: int = Field(ge=4, le=512)
    max_noise_level: int = Field(ge=0, le=999)


class UpsampleTrainConfig(OptimizationConfig):
    """The training of a super-resolution stage, on crops and now and then on whole images."""

    crop_size: int = Positive
    crop_choices: int = Positive
    whole_share: float = Probability
    num_neighbors: int = Field(ge=0)
    drop_neighbors: float = Probability
    drop_text: float = Probability
    augment_turn: bool
    model: UpsampleModelConfig
