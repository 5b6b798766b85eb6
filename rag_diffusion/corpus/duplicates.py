"""Near-duplicate drawings: almost the same pixels, in whichever set they stand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image

from rag_diffusion.arrays import Floats, Pixels

IDENTICAL = 0.001  # mean squared difference below which any two drawings are the same picture
_COARSE, _FINE = 16, 32  # pixels
_BLOCK = 1024  # rows compared at a time


class UnionFind:
    """Disjoint groups of names; the smallest member names a group."""

    def __init__(self, names: Iterable[str]) -> None:
        self._parent = {name: name for name in names}

    def find(self, name: str) -> str:
        """The name of the group of the member `name`."""
        root = name
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[name] != root:
            self._parent[name], name = root, self._parent[name]
        return root

    def join(self, a: str, b: str) -> None:
        """Make one group of those of members `a` and `b`."""
        a, b = self.find(a), self.find(b)
        self._parent[max(a, b)] = min(a, b)


def thumbnails(pixels: Pixels, size: int) -> Floats:
    """`pixels` (n, H, W, 3) uint8 as (n, `size` * size * 3) float32 in [0, 1], box-averaged."""
    small = [np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BOX)) for image in pixels]
    return (np.stack(small).reshape(len(small), -1) / np.float32(255)).astype(np.float32)


def close_pairs(vectors: Floats, threshold: float) -> Iterator[tuple[int, int]]:
    """Rows a < b of `vectors` (n, D) whose mean squared difference is below `threshold`, block by block."""
    squares = np.square(vectors).sum(1)
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        distances = squares[start : start + _BLOCK, None] + squares[None, start:] - 2 * block @ vectors[start:].T
        rows, columns = np.nonzero(distances < threshold * vectors.shape[1])
        yield from ((start + int(a), start + int(b)) for a, b in zip(rows, columns, strict=True) if a < b)


def duplicate_groups(pair_ids: Sequence[str], entities: Sequence[str], pixels: Pixels, threshold: float) -> list[str]:
    """Mark near-duplicates.

    Two drawings of one entity are duplicates when the mean squared difference of their 32 px thumbnails, colours
    in [0, 1], is below `threshold`; two drawings of different entities when it is below `IDENTICAL`.

    Args:
        pair_ids: n ids.
        entities: n entities.
        pixels: (n, H, W, 3) uint8.
        threshold: mean squared difference.

    Returns:
        n group names: the smallest pair id of each group.
    """
    groups = UnionFind(pair_ids)
    fine = thumbnails(pixels, _FINE)
    for a, b in close_pairs(thumbnails(pixels, _COARSE), max(threshold, IDENTICAL)):
        limit = threshold if entities[a] == entities[b] else IDENTICAL
        if float(np.square(fine[a] - fine[b]).mean()) < limit:
            groups.join(pair_ids[a], pair_ids[b])
    return [groups.find(pair_id) for pair_id in pair_ids]
