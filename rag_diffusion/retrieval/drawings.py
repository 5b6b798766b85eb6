"""Which pairs of a corpus show the same thing, and which have nothing to do with a prompt."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TypeVar

import numpy as np

from rag_diffusion.arrays import Floats, Ints, Mask
from rag_diffusion.corpus.duplicates import thumbnails
from rag_diffusion.retrieval.exclude import SAME_PICTURE
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.types import Prompt

ENOUGH = 16  # unrelated pairs in other styles; with fewer the style does not matter
_SIDE = 32  # pixels of a thumbnail

Key = TypeVar("Key")


class Drawings:
    """Which rows show the same thing: looked up by duplicate group, by entity and style, by entity.

    Args:
        corpus: the knowledge base.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._group = corpus.column("duplicate_group").tolist()
        self._by_group = _rows_by(self._group)
        self._by_drawing = _rows_by(zip(corpus.column("entity"), corpus.column("style"), strict=True))
        self._pair_ids = {name: row for row, name in enumerate(corpus.column("pair_id"))}
        self.entity = corpus.column("entity")
        self.family = corpus.column("family")
        self.style = corpus.column("style")

    def of_pair(self, row: int) -> Ints:
        """The pair at `row` and its near-duplicates, sorted rows."""
        return np.asarray(self._by_group[self._group[row]], dtype=np.int64)

    def of_prompt(self, prompt: Prompt) -> Ints:
        """Every drawing of the `prompt`'s entity in its style, and their near-duplicates, sorted rows.

        A prompt that is made from one pair of a user's own corpus has the pair's id: then only that
        pair and its near-duplicates, also those that another entity's label stands on, since other
        pairs of its label are what retrieval is for.
        """
        if prompt.prompt_id in self._pair_ids:
            row = self._pair_ids[prompt.prompt_id]
            return np.union1d(self.of_pair(row), self._looking_like(row))
        targets = self._by_drawing.get((prompt.entity, prompt.style), [])
        return np.unique(np.concatenate([self.of_pair(row) for row in targets] or [np.empty(0, dtype=np.int64)]))

    def target(self, prompt: Prompt) -> int | None:
        """Row of the real image of a `prompt`: the pair it was made from, or its entity in its style; None without."""
        own = self._pair_ids.get(prompt.prompt_id)
        return next(iter(self._by_drawing.get((prompt.entity, prompt.style), [])), None) if own is None else own

    def unrelated(self, prompt: Prompt) -> Mask:
        """(N,) rows of other families: what the random neighbors of a `prompt` are drawn from.

        In other styles alone where the corpus has at least `ENOUGH` of those; a corpus of one style
        has none.
        """
        others: Mask = self.family != prompt.family
        elsewhere = others & (self.style != prompt.style)
        return elsewhere if elsewhere.sum() >= ENOUGH else others

    def _looking_like(self, row: int) -> Ints:
        apart = np.square(self._thumbnails - self._thumbnails[row]).mean(axis=1)
        return np.flatnonzero(apart < SAME_PICTURE)

    @cached_property
    def _thumbnails(self) -> Floats:
        return thumbnails(self._corpus.pixels(), _SIDE)


def _rows_by(keys: Iterable[Key]) -> dict[Key, list[int]]:
    rows: dict[Key, list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    return rows
