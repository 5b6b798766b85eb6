"""Sections of params.yaml about pairs: what is read, embedded, indexed and retrieved."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from rag_diffusion.config.section import Positive, Probability, Section
from rag_diffusion.types import Precision


class OwnConfig(Section):
    """A folder of SVG files, named by what they show, as a style that is never trained on; no path: none."""

    path: str
    style: str
    words: str
    licence: str
    attribution: str


class IconifyConfig(Section):
    """Which drawings of Iconify's sets are taken, and in which colours the monochrome ones are drawn."""

    sets: Literal["emoji", "wide"] | list[str]
    sources: str
    wide_sources: str
    colours: Literal["entity", "drawing", "black"]
    own: OwnConfig
    skin_tones: bool
    flags: bool
    people: bool


class FolderConfig(Section):
    """A user's own images with captions, in any form of `readers.forms.FORMS`; `originals` keeps them as they came."""

    path: str
    licence: str
    attribution: str
    form: str = "auto"
    image_column: str = ""
    caption_column: str = ""
    caption: str = "first-line"
    originals: bool = True


class SplitConfig(Section):
    """Shares of families, and the least number of entities drawn in six or more styles."""

    validation: float = Probability
    test: float = Probability
    min_validation_entities: int = Field(ge=0)
    min_test_entities: int = Field(ge=0)


class CorpusConfig(Section):
    """What `ingest` reads."""

    source: Literal["iconify", "folder"]
    image_size: int = Field(ge=16, le=1024)
    iconify: IconifyConfig
    folder: FolderConfig
    split: SplitConfig
    duplicate_threshold: float = Field(ge=0.0)


class EncoderConfig(Section):
    """The dual encoder: `embedded` is trained by `align`; any other name is an open_clip architecture."""

    model: str
    pretrained: str
    image_size: int = Positive
    embed_dim: int = Positive
    epochs: int = Positive
    batch_size: int = Positive
    learning_rate: float = Positive
    title_weight: float = Field(ge=0.0)


class IndexConfig(Section):
    """The index over vectors, in what these are kept, the recall that both must reach, and the GiB that it may take.

    0 GiB is half of what there is.
    """

    factory: str
    min_recall: float = Probability
    precision: Precision = "float32"
    memory: float = Field(default=0.0, ge=0.0)
    shards: int = Field(default=1, ge=1)


class FusionWeights(Section):
    """Weight of each normalised similarity in the fused score."""

    bm25: float = Field(ge=0.0)
    tf_idf: float = Field(ge=0.0)
    text_to_text: float = Field(ge=0.0)
    text_to_image: float = Field(ge=0.0)


class ThresholdsConfig(Section):
    """The least that a hit must have to become a neighbor; 0 asks for nothing."""

    score: float = Probability
    probability: float = Probability
    bm25: float = Field(ge=0.0)
    tf_idf: float = Probability
    text_to_text: float = Probability
    text_to_image: float = Probability


class WhereConfig(Section):
    """Which pairs may be retrieved; an empty list lets all through."""

    sources: list[str]
    classes: list[str]
    licences: list[str]
    splits: list[str]


class ScheduleConfig(Section):
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


class RetrievalConfig(Section):
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


class BaselinesConfig(Section):
    """Variants that need no generator."""

    snap_colors: int = Field(ge=2, le=256)
