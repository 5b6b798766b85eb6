"""What retrieval and sampling need of a table of pairs: one corpus, or several data sets as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from rag_diffusion.arrays import Ints, Pixels
from rag_diffusion.types import DataSetVersion, Pair


class Pairs(Protocol):
    """Read-only pairs, sorted by pair id; a row number stands for a pair."""

    @property
    def hash(self) -> str:
        """Identity of the pairs."""
        ...

    @property
    def versions(self) -> tuple[DataSetVersion, ...]:
        """The data sets that they are of, each as it is."""
        ...

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        ...

    @property
    def style_words(self) -> Mapping[str, str]:
        """Style -> how a text names it, where that is not its own name."""
        ...

    def __len__(self) -> int: ...

    def rows(self, pair_ids: Iterable[str]) -> Ints:
        """Row numbers of several pairs; a `LineageError` names one that is not there."""
        ...

    def ids(self, rows: Ints) -> list[str]:
        """Pair ids of rows."""
        ...

    def cells(self, column: str, rows: Ints) -> list[str]:
        """What stands in a column at some rows; a column is a text field of `Pair`."""
        ...

    def groups(self) -> Ints:
        """(N,) numbers; rows with the same one are near-duplicates."""
        ...

    def pixels(self, rows: Ints) -> Pixels:
        """(n, H, W, 3) RGB of rows."""
        ...

    def pair(self, pair_id: str) -> Pair:
        """One whole pair, image included."""
        ...
