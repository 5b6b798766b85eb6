"""How hits are scored and selected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rag_diffusion.config import RetrievalConfig
from rag_diffusion.retrieval.fusion import FusionName
from rag_diffusion.retrieval.selection import Selection


@dataclass(frozen=True, kw_only=True)
class Method:
    """How hits are scored and selected; `retrieval` in params.yaml.

    Attributes:
        weights: of `bm25`, `tf_idf`, `text_to_text` and `text_to_image`.
        fusion: how they become one score.
        rank_constant: of reciprocal-rank fusion.
        selection: which hits become neighbors.
    """

    weights: Mapping[str, float]
    fusion: FusionName = "sum"
    rank_constant: int = 60
    selection: Selection = field(default_factory=Selection)

    @classmethod
    def from_config(cls, config: RetrievalConfig) -> Method:
        """As params.yaml says."""
        return cls(
            weights=config.weights.model_dump(),
            fusion=config.fusion,
            rank_constant=config.rank_constant,
            selection=Selection(kind=config.selection, threshold=config.threshold, diversity=config.diversity),
        )
