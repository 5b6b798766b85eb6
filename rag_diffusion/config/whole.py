"""params.yaml as frozen, typed objects. An unknown key or a wrong type is a `ConfigError`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from rag_diffusion.config.drawing import (
    EvaluateConfig,
    MarksConfig,
    SafetyConfig,
    SampleConfig,
    ScoreConfig,
    SweepConfig,
)
from rag_diffusion.config.knowledge import BaselinesConfig, CorpusConfig, EncoderConfig, IndexConfig, RetrievalConfig
from rag_diffusion.config.section import Section
from rag_diffusion.config.training import ClipsConfig, FinetuneConfig, ModelConfig, PretrainConfig, UpsampleTrainConfig
from rag_diffusion.errors import ConfigError


class RayConfig(Section):
    """The cluster of `engine: ray`, and what a worker takes of it; no address: that of RAY_ADDRESS, or this machine."""

    address: str = ""
    workers: int = Field(default=0, ge=0)
    cpus_per_worker: float = Field(default=1.0, gt=0.0)
    gpus_per_worker: float = Field(default=0.0, ge=0.0)


class TrackingConfig(Section):
    """Where runs are logged."""

    experiment: str
    uri: str


class Config(Section):
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
