"""Which pairs a query may find: by source, class, licence and split.

Shapes: n pairs of a data set.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rag_diffusion.arrays import Mask

if TYPE_CHECKING:
    from rag_diffusion.config import WhereConfig


@dataclass(frozen=True, kw_only=True)
class Filter:
    """A pair passes if it passes each of these; empty lets all pass.

    Attributes:
        sources: names of data sets, or of sources inside of them: `corpus`, `iconify`, `iconify/twemoji`.
        classes: categories, or labels of single things.
        licences: as they stand in the pairs.
        splits: `train`, `validation`, `test`.

    Examples:
        >>> from rag_diffusion import Filter
        >>> bool(Filter()), bool(Filter(licences=("CC0-1.0", "MIT"), splits=("train",)))
        (False, True)
    """

    sources: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: WhereConfig) -> Filter:
        """As `config`, `retrieval.where` in params.yaml, says."""
        return cls(**{name: tuple(values) for name, values in config.model_dump().items()})

    def __bool__(self) -> bool:
        return bool(self.sources or self.classes or self.licences or self.splits)

    def for_remote(self) -> dict[str, list[str]]:
        """What a remote is asked for, as `clip_protocol` has it; the sources inside of it are its own matter."""
        fields = {"class": self.classes, "licence": self.licences, "split": self.splits}
        return {name: list(values) for name, values in fields.items() if values}

    def mask(self, name: str, table: pa.Table) -> Mask:
        """(n,) which pairs of the data set `name` pass; `table` holds their text columns, see `TEXT_SCHEMA`."""
        mask = np.ones(table.num_rows, dtype=bool)
        if self.sources and name not in self.sources:
            mask &= _where(table, "source", self._from)
        if self.classes:
            classes = set(self.classes)
            mask &= _where(table, "category", lambda value: value in classes) | _among(table, "entity", classes)
        if self.licences:
            mask &= _where(table, "licence", lambda value: value in self.licences)
        if self.splits:
            mask &= _where(table, "split", lambda value: value in self.splits)
        return mask

    def _from(self, source: str) -> bool:
        return any(source == name or source.startswith(f"{name}/") for name in self.sources)


def _where(table: pa.Table, column: str, passes: Callable[[str], bool]) -> Mask:
    """Which rows of a dictionary column have a value that passes; each distinct value is asked once."""
    masks = [np.empty(0, dtype=bool)]
    for chunk in table.column(column).chunks:
        passing = np.asarray([passes(value) for value in chunk.dictionary.to_pylist()], dtype=bool)
        masks.append(passing[chunk.indices.to_numpy()])
    return np.concatenate(masks)


def _among(table: pa.Table, column: str, values: Collection[str]) -> Mask:
    """Which rows of a text column have one of the values."""
    among = pc.is_in(table.column(column), value_set=pa.array(sorted(values), pa.string()))
    return np.asarray(among.to_numpy(), dtype=bool)
