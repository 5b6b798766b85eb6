"""How hits are scored and selected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rag_diffusion.config import RetrievalConfig
from rag_diffusion.retrieval.fusion import FusionName
from rag_diffusion.retrieval.selection import Selection, Thresholds


@dataclass(frozen=True, kw_only=True)
class Method:
    """How hits are scored and selected; `retrieval` in params.yaml.

    Attributes:
        weights: of `bm25`, `tf_idf`, `text_to_text` and `text_to_image`.
        fusion: how they become one score.
        rank_constant: of reciprocal-rank fusion.
        selection: which hits become neighbors.
        duplicate_cosine: of image vectors, from which on two pictures are one; see `NearDuplicates`.
    """

    weights: Mapping[str, float]
    fusion: FusionName = "sum"
    rank_constant: int = 60
    selection: Selection = field(default_factory=Selection)
    duplicate_cosine: float = 1.0

    @property
    def similarities(self) -> frozenset[str]:
        """Names of those that have a weight or a threshold."""
        thresholds = vars(self.selection.thresholds)
        return frozenset(name for name, weight in self.weights.items() if max(weight, thresholds.get(name, 0.0)) > 0)

    @classmethod
    def from_config(cls, config: RetrievalConfig) -> Method:
        """As `config`, the section `retrieval` of params.yaml, says."""
        return cls(
            weights=config.weights.model_dump(),
            fusion=config.fusion,
            rank_constant=config.rank_constant,
            selection=Selection(
                kind=config.selection,
                thresholds=Thresholds(**config.thresholds.model_dump()),
                max_neighbors=config.max_neighbors,
                diversity=config.diversity,
            ),
            duplicate_cosine=config.duplicate_cosine,
        )
