"""What must not come beside the ids that a caller names: near-duplicates of them, and of pictures he holds.

Near-duplicates of a pair are known from ingest (`duplicate_group`, by thumbnails). Those of a picture from outside are
looked for among its nearest image vectors, and taken where the thumbnails agree, or the vectors themselves, for an
encoder that is good enough: of the embedded encoder's vectors even a cosine of .99 is more often another entity than a
copy, of a published one's the same picture cut, moved or in other colours.

Shapes: N pairs, n pictures, D width.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from rag_diffusion.arrays import Floats, Ints, Pixels
from rag_diffusion.corpus.duplicates import thumbnails
from rag_diffusion.retrieval.ann import Nearest
from rag_diffusion.store.pairs import Pairs
from rag_diffusion.store.vectors import Rows

SAME_PICTURE = 0.005  # mean squared difference of 32 px thumbnails, colours in [0, 1]; as `corpus.duplicate_threshold`
LOOKED_AT = 64  # nearest image vectors whose thumbnails are compared
_SIDE = 32  # pixels


class NearDuplicates:
    """Near-duplicates in a corpus.

    Args:
        corpus: the knowledge base.
        images: index over its image vectors.
        cosine: of image vectors, from which on two pictures are one whatever their thumbnails say; 1 asks thumbnails
            alone.
    """

    def __init__(self, corpus: Pairs, images: Nearest, cosine: float = 1.0) -> None:
        self._corpus, self._images, self._cosine = corpus, images, cosine

    def of_rows(self, rows: Ints) -> Ints:
        """The `rows` and all near-duplicates of them, rising."""
        groups, order, starts = self._groups
        own = groups[rows]
        members = [order[starts[group] : starts[group + 1]] for group in np.unique(own)]
        return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *members]))

    def of_pairs(self, rows: Ints, vectors: Rows) -> Ints:
        """The rows and all near-duplicates of them, also in other data sets, of which `duplicate_group` does not tell.

        Args:
            rows: of pairs.
            vectors: (N, D) of the images.
        """
        pairs = self._corpus
        if not len(rows) or len(pairs.parts) < 2:
            return self.of_rows(rows)
        same = set(rows.tolist())
        for row, (part, _), pixels in zip(rows, pairs.places(rows), pairs.pixels(rows), strict=True):
            alike = self.of_image(pixels, vectors[np.asarray([row])][0])
            same.update(
                int(near_row) for near_row, (other, _) in zip(alike, pairs.places(alike), strict=True) if other != part
            )
        return self.of_rows(np.asarray(sorted(same), dtype=np.int64))

    def of_image(self, pixels: Pixels, vector: Floats) -> Ints:
        """Rows that show a picture, and all near-duplicates of those, rising.

        Args:
            pixels: (H, W, 3) uint8.
            vector: (D,) its unit vector.
        """
        cosines, near = (column[0] for column in self._images.search(vector[None], LOOKED_AT))
        cosines, near = cosines[near >= 0], near[near >= 0]
        thumbnail = thumbnails(pixels[None], _SIDE)[0]
        apart = np.square(thumbnails(self._corpus.pixels(near), _SIDE) - thumbnail).mean(axis=1)
        same = apart < SAME_PICTURE
        if self._cosine < 1:
            same |= cosines >= self._cosine
        return self.of_rows(near[same])

    @cached_property
    def _groups(self) -> tuple[Ints, Ints, Ints]:
        """Group number of each row, rows by group, and where each group begins."""
        groups = self._corpus.numbered("duplicate_group")
        starts = np.concatenate([[0], np.cumsum(np.bincount(groups))])
        return groups, np.argsort(groups, kind="stable"), starts
