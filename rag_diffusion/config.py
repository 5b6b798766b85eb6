"""params.yaml as frozen, typed objects. An unknown key or a wrong type is a `ConfigError`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from rag_diffusion.errors import ConfigError
from rag_diffusion.types import Precision

Probability = Field(ge=0.0, le=1.0)
Positive = Field(gt=0)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class OwnConfig(_Section):
    """A folder of SVG files, named by what they show, as a style that is never trained on; no path: none."""

    path: str
    style: str
    words: str
    licence: str
    attribution: str


class IconifyConfig(_Section):
    """Which drawings of Iconify's sets are taken, and in which colours the monochrome ones are drawn."""

    sets: Literal["emoji", "wide"] | list[str]
    sources: str
    wide_sources: str
    colours: Literal["entity", "drawing", "black"]
    own: OwnConfig
    skin_tones: bool
    flags: bool
    people: bool


class FolderConfig(_Section):
    """A user's own images with captions, in any form of `readers.forms.FORMS`; `originals` keeps them as they came."""

    path: str
    licence: str
    attribution: str
    form: str = "auto"
    image_column: str = ""
    caption_column: str = ""
    caption: str = "first-line"
    originals: bool = True


class SplitConfig(_Section):
    """Shares of families, and the least number of entities drawn in six or more styles."""

    validation: float = Probability
    test: float = Probability
    min_validation_entities: int = Field(ge=0)
    min_test_entities: int = Field(ge=0)


class CorpusConfig(_Section):
    """What `ingest` reads."""

    source: Literal["iconify", "folder"]
    image_size: int = Field(ge=16, le=1024)
    iconify: IconifyConfig
    folder: FolderConfig
    split: SplitConfig
    duplicate_threshold: float = Field(ge=0.0)


class EncoderConfig(_Section):
    """The dual encoder: `embedded` is trained by `align`; any other name is an open_clip architecture."""

    model: str
    pretrained: str
    image_size: int = Positive
    embed_dim: int = Positive
    epochs: int = Positive
    batch_size: int = Positive
    learning_rate: float = Positive
    title_weight: float = Field(ge=0.0)


class IndexConfig(_Section):
    """The index over vectors, in what these are kept, the recall that both must reach, and the GiB that it may take.

    0 GiB is half of what there is.
    """

    factory: str
    min_recall: float = Probability
    precision: Precision = "float32"
    memory: float = Field(default=0.0, ge=0.0)
    shards: int = Field(default=1, ge=1)


class FusionWeights(_Section):
    """Weight of each normalised similarity in the fused score."""

    bm25: float = Field(ge=0.0)
    tf_idf: float = Field(ge=0.0)
    text_to_text: float = Field(ge=0.0)
    text_to_image: float = Field(ge=0.0)


class ThresholdsConfig(_Section):
    """The least that a hit must have to become a neighbor; 0 asks for nothing."""

    score: float = Probability
    probability: float = Probability
    bm25: float = Field(ge=0.0)
    tf_idf: float = Probability
    text_to_text: float = Probability
    text_to_image: float = Probability


class WhereConfig(_Section):
    """Which pairs may be retrieved; an empty list lets all through."""

    sources: list[str]
    classes: list[str]
    licences: list[str]
    splits: list[str]


class ScheduleConfig(_Section):
    """How neighbors change over the steps; shares are of the steps."""

    counts: list[tuple[float, int]]
    shown: list[tuple[float, list[int]]]
    query_again: list[float]
    image_weight: float = Probability

    @field_validator("counts", "shown", mode="before")
    @classmethod
    def _pairs(cls, value: object) -> object:
        """YAML has lists alone."""
        if not isinstance(value, list):
            return value
        return [tuple(entry) if isinstance(entry, list) else entry for entry in value]


class RetrievalConfig(_Section):
    """How neighbors are selected."""

    lexical: Literal["sparse", "rank_bm25"]
    weights: FusionWeights
    fusion: Literal["sum", "product", "reciprocal_rank"]
    rank_constant: int = Positive
    selection: Literal["top_k", "threshold", "both"]
    thresholds: ThresholdsConfig
    max_neighbors: int = Field(ge=1, le=16)
    diversity: float = Probability
    duplicate_cosine: float = Field(gt=0.0, le=1.0)
    content: int = Field(ge=1, le=16)
    style: int = Field(ge=0, le=16)
    training_candidates: int = Field(ge=1)
    where: WhereConfig
    schedule: ScheduleConfig


class BaselinesConfig(_Section):
    """Variants that need no generator."""

    snap_colors: int = Field(ge=2, le=256)


class ModelConfig(_Section):
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


class OptimizationConfig(_Section):
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


class ClipsScoreConfig(_Section):
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


class ClipsConfig(_Section):
    """The corpus of clips, the training on it, and its measures."""

    sources: str
    every: int = Positive
    min_frames: int = Field(ge=2)
    max_frames: int = Field(ge=2, le=1000)
    train: ClipsTrainConfig
    score: ClipsScoreConfig


class UpsampleModelConfig(_Section):
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


class UpsamplingConfig(_Section):
    """How the further stages of a cascade draw; the fields are those of `sampling.cascade.StageSettings`."""

    num_inference_steps: int = Positive
    noise_level: int = Field(ge=0, le=999)
    text_guidance_scale: float
    batch_size: int = Positive
    tile_size: int = Field(ge=0)


class SampleConfig(_Section):
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
    weight_by_step: str
    weight_by_map: str
    precision: Literal["auto", "fp32", "bf16"]
    batch_size: int = Positive
    upsampling: UpsamplingConfig


class ScoreConfig(_Section):
    """How images are judged."""

    extractor: Literal["embedded", "inception"]
    inception_weights: str
    bootstrap_draws: int = Positive
    min_real_accuracy: float = Probability


class EvaluateConfig(_Section):
    """The full protocol, `rag-diffusion evaluate`."""

    prompts: Literal["default", "all"]
    degraded_strength: float = Field(gt=0, le=1)
    curve_prompts: int = Field(ge=1)
    curve_text_scales: list[float]
    curve_neighbor_scales: list[float]
    shown: int = Field(ge=1)


class SweepConfig(_Section):
    """The stage `sweep`: every kind of guidance with every number of neighbors."""

    guidance: list[str]
    num_neighbors: list[int]
    num_prompts: int = Field(ge=1)


class SafetyConfig(_Section):
    """What is neither drawn nor retrieved; nothing is left out by default."""

    checker: str = ""
    words: list[str] = []
    concepts: list[str] = []
    concept_cosine: float = Field(default=0.45, gt=0.0, le=1.0)


class MarksConfig(_Section):
    """What every picture carries: an invisible watermark, signed credentials; neither by default."""

    watermark: str = ""
    credentials: str = ""


class RayConfig(_Section):
    """The cluster of `engine: ray`, and what a worker takes of it; no address: that of RAY_ADDRESS, or this machine."""

    address: str = ""
    workers: int = Field(default=0, ge=0)
    cpus_per_worker: float = Field(default=1.0, gt=0.0)
    gpus_per_worker: float = Field(default=0.0, ge=0.0)


class TrackingConfig(_Section):
    """Where runs are logged."""

    experiment: str
    uri: str


class Config(_Section):
    """The whole of params.yaml."""

    seed: int
    device: Literal["auto", "cpu", "cuda"]
    corpus: CorpusConfig
    encoder: EncoderConfig
    index: IndexConfig
    retrieval: RetrievalConfig
    baselines: BaselinesConfig
    model: ModelConfig
    pretrain: PretrainConfig
    finetune: FinetuneConfig
    upsample: UpsampleTrainConfig
    clips: ClipsConfig
    sample: SampleConfig
    score: ScoreConfig
    sweep: SweepConfig
    evaluate: EvaluateConfig
    tracking: TrackingConfig
    safety: SafetyConfig = SafetyConfig()
    marks: MarksConfig = MarksConfig()
    shard: bool = False
    engine: Literal["local", "ray"] = "local"
    ray: RayConfig = RayConfig()


def load_config(path: Path | str = "params.yaml", settings: Mapping[str, str] | None = None) -> Config:
    """Read and check params.yaml.

    Args:
        path: the file.
        settings: dotted keys and what they are instead; a text is read as YAML.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: the file is missing, is no YAML mapping, or has an unknown key or a wrong type.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: expected a parameter file, found none; run from the project's root") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: expected YAML, got text that does not parse: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, got {type(raw).__name__}")
    for key, text in (settings or {}).items():
        _set(raw, key, text)
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{path}:\n" + "\n".join(_explain(e) for e in error.errors())) from None


def _set(raw: dict[str, Any], key: str, text: str) -> None:
    *sections, last = key.split(".")
    level: Any = raw
    for section in sections:
        level = level.get(section) if isinstance(level, dict) else None
    if not isinstance(level, dict) or last not in level:
        raise ConfigError(f"--set {key}={text}: expected a key of params.yaml, as sample.guidance, got {key!r}")
    level[last] = yaml.safe_load(text)


def _explain(error: object) -> str:
    assert isinstance(error, dict)
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"  {where}: unknown key; remove it or correct its spelling"
    if error["type"] == "missing":
        return f"  {where}: missing; add it (the default is in the repository's params.yaml)"
    return f"  {where}: {error['msg']}, got {error['input']!r} ({type(error['input']).__name__})"
