"""Which entity is drawn: cosine to prototypes made from drawings that nobody was shown.

C candidate entities, S styles, k dimensions of the whitened features.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from rag_diffusion.arrays import Doubles
from rag_diffusion.errors import DataError
from rag_diffusion.metrics.ruler.linear import unit

MIN_STYLES = 6  # an entity drawn in fewer styles is no candidate
MIN_PROTOTYPE_STYLES = 2


class Prototypes:
    """Unit features of every candidate entity in every style.

    Args:
        features: (n, k) whitened features of images.
        entities: (n,) what each shows.
        styles: (n,) how it is drawn.
        min_styles: entities in fewer styles are left out.

    Attributes:
        entities: the C candidates, sorted.
        styles: the S styles, sorted.
    """

    def __init__(
        self, features: Doubles, entities: Sequence[str], styles: Sequence[str], *, min_styles: int = MIN_STYLES
    ) -> None:
        self.styles = sorted(set(styles))
        drawn_in: dict[str, set[str]] = {}
        for entity, style in zip(entities, styles, strict=True):
            drawn_in.setdefault(entity, set()).add(style)
        self.entities = sorted(entity for entity, some in drawn_in.items() if len(some) >= min_styles)
        self._number = {entity: number for number, entity in enumerate(self.entities)}
        sums = np.zeros((len(self.entities), len(self.styles), features.shape[1]))
        for row, (entity, style) in enumerate(zip(entities, styles, strict=True)):
            if entity in self._number:
                sums[self._number[entity], self.styles.index(style)] += features[row]
        self._drawings: Doubles = unit(sums)

    def number(self, entity: str) -> int:
        """Row of the candidate `entity`.

        Raises:
            DataError: the entity is no candidate.
        """
        if entity not in self._number:
            raise DataError(
                f"entity {entity!r}: expected one of the {len(self.entities)} entities that stand in enough styles, "
                "got another one; make the prompts from this corpus"
            )
        return self._number[entity]

    def means(self, hidden: Collection[str]) -> Doubles:
        """Prototypes (C, k): the mean over the styles that are not `hidden`, the same ones for every candidate.

        Raises:
            DataError: fewer than two styles are left.
        """
        kept = [number for number, style in enumerate(self.styles) if style not in hidden]
        if len(kept) < MIN_PROTOTYPE_STYLES:
            raise DataError(
                f"prototypes: expected at least {MIN_PROTOTYPE_STYLES} styles that were not shown, got {len(kept)} of "
                f"{len(self.styles)}; lower retrieval.content"
            )
        return unit(self._drawings[:, kept].sum(axis=1))

    def similarities(self, features: Doubles, hidden: Collection[str]) -> Doubles:
        """Cosines (n, C) of whitened `features` (n, k) to all candidates, by the styles that are not `hidden`."""
        return unit(features) @ self.means(hidden).T
