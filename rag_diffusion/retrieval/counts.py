"""How often each term stands in each text, by term: what every lexical weight is made of.

Texts are read one after the other and kept as numbers alone, so that a million captions take some hundred megabytes.

Shapes: N texts, V terms, M entries (a term in a text).
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from scipy import sparse

from rag_diffusion.arrays import Doubles, Ints
from rag_diffusion.errors import DataError
from rag_diffusion.retrieval.tokens import tokenize
from rag_diffusion.store.vectors import map_tensors

TERMS_FILE = "lexical.json"
TABLE_FILE = "lexical.safetensors"
_BLOCK = 65536  # texts counted at a time


@dataclass(frozen=True, kw_only=True)
class TermCounts:
    """A term-major table of counts.

    Attributes:
        terms: V terms in the order of their first appearance.
        starts: (V + 1,) int64; entries of term v are `starts[v]` to `starts[v + 1]`.
        texts: (M,) int32 text numbers, rising within a term.
        counts: (M,) int32.
        lengths: (N,) int32, terms of each text.
    """

    terms: Sequence[str]
    starts: Ints
    texts: NDArray[np.int32]
    counts: NDArray[np.int32]
    lengths: NDArray[np.int32]

    @property
    def in_texts(self) -> Ints:
        """(V,) in how many texts each term stands."""
        return np.diff(self.starts)

    @cached_property
    def columns(self) -> dict[str, int]:
        """Term -> its number."""
        return {term: column for column, term in enumerate(self.terms)}

    @cached_property
    def num_words(self) -> int:
        """Terms of all texts together, each as often as it stands there."""
        return int(self.lengths.sum(dtype=np.int64))

    @classmethod
    def from_texts(cls, texts: Iterable[str], *, needs_words: bool = True) -> TermCounts:
        """Count the words of texts, which are read once.

        Args:
            texts: N texts.
            needs_words: whether texts without any word are an error.

        Returns:
            The table of words and texts.

        Raises:
            DataError: there are no words at all.
        """
        vocabulary: dict[str, int] = {}
        lengths, block = array("i"), array("i")
        parts: list[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]] = []
        first = 0
        for number, text in enumerate(texts):
            before = len(block)
            block.extend(vocabulary.setdefault(term, len(vocabulary)) for term in tokenize(text))
            lengths.append(len(block) - before)
            if number + 1 - first == _BLOCK:
                parts.append(_count(block, lengths, first))
                first, block = number + 1, array("i")
        parts.append(_count(block, lengths, first))
        if needs_words and not vocabulary:
            raise DataError(f"BM25: expected captions with words, got {len(lengths)} without any; check the captions")
        rows, columns, counts = (np.concatenate([part[place] for part in parts]) for place in range(3))
        del parts
        table = sparse.coo_array((counts, (rows, columns)), shape=(len(lengths), len(vocabulary))).tocsc()
        return cls(
            terms=list(vocabulary),
            starts=table.indptr.astype(np.int64),
            texts=table.indices.astype(np.int32, copy=False),
            counts=table.data,
            lengths=np.frombuffer(lengths, dtype=np.int32).copy(),
        )

    @classmethod
    def merged(cls, parts: Sequence[TermCounts]) -> TermCounts:
        """The table of all texts of the tables `parts`, in their order; as if they had been counted together."""
        if len(parts) == 1:
            return parts[0]
        vocabulary: dict[str, int] = {}
        columns = [
            np.fromiter((vocabulary.setdefault(term, len(vocabulary)) for term in part.terms), dtype=np.int64)
            for part in parts
        ]
        sizes = np.zeros(len(vocabulary), dtype=np.int64)
        for own, part in zip(columns, parts, strict=True):
            sizes[own] += part.in_texts
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        texts, counts = np.empty(starts[-1], dtype=np.int32), np.empty(starts[-1], dtype=np.int32)
        free, first = starts[:-1].copy(), 0
        for own, part in zip(columns, parts, strict=True):
            place = np.arange(len(part.texts)) + np.repeat(free[own] - part.starts[:-1], part.in_texts)
            texts[place], counts[place] = part.texts + np.int32(first), part.counts
            free[own] += part.in_texts
            first += len(part.lengths)
        lengths = np.concatenate([np.empty(0, dtype=np.int32), *(part.lengths for part in parts)])
        return cls(terms=list(vocabulary), starts=starts, texts=texts, counts=counts, lengths=lengths)

    def save(self, folder: Path) -> None:
        """Write terms and table into an existing `folder`; the same texts give the same bytes."""
        arrays = {name: getattr(self, name) for name in ("starts", "texts", "counts", "lengths")}
        save_file(arrays, folder / TABLE_FILE)
        terms = json.dumps({"terms": list(self.terms)}, ensure_ascii=False)
        (folder / TERMS_FILE).write_text(terms + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, *, remedy: str = "run the stage `index` again") -> TermCounts:
        """Map what `save` wrote; the terms alone are read.

        Args:
            folder: where it lies.
            remedy: what makes a new one.

        Raises:
            DataError: it is missing or damaged.
        """
        try:
            terms = json.loads((folder / TERMS_FILE).read_text(encoding="utf-8"))["terms"]
            arrays = {name: np.asarray(array) for name, array in map_tensors(folder / TABLE_FILE).items()}
            table = cls(terms=terms, **arrays)
            if len(table.starts) != len(terms) + 1 or table.starts[-1] != len(table.texts):
                raise ValueError(f"{len(terms)} terms and a table of {len(table.starts) - 1}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{folder}: expected a table of terms ({TERMS_FILE}, {TABLE_FILE}), got {error}; {remedy}"
            ) from None
        return table


class StackedCounts:
    """The texts of several tables, one after the other, as one table of which nothing is copied until it is asked for.

    Args:
        parts: at least one table.

    Attributes:
        total: N.
        num_words: terms of all texts together.
    """

    def __init__(self, parts: Sequence[TermCounts]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *(len(part.lengths) for part in parts)]).tolist()
        self.total, self.num_words = int(self._starts[-1]), sum(part.num_words for part in parts)

    def in_texts(self, term: str) -> int:
        """In how many texts a `term` stands."""
        places = ((part, part.columns.get(term)) for part in self._parts)
        return sum(int(part.starts[at + 1] - part.starts[at]) for part, at in places if at is not None)

    def entries(self, term: str) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """(m,) numbers of the texts in which a `term` stands, rising, and (m,) how often it stands there."""
        found = []
        for part, first in zip(self._parts, self._starts, strict=False):
            at = part.columns.get(term)
            if at is not None:
                place = slice(int(part.starts[at]), int(part.starts[at + 1]))
                found.append((part.texts[place] + np.int32(first) if first else part.texts[place], part.counts[place]))
        if len(found) == 1:
            return found[0]
        nothing = np.empty(0, dtype=np.int32)
        texts, counts = zip(*found, strict=True) if found else ((nothing,), (nothing,))
        return np.concatenate(texts), np.concatenate(counts)

    def lengths(self, texts: NDArray[np.int32]) -> NDArray[np.int32]:
        """(m,) terms of each of the (m,) `texts`, which rise."""
        if len(self._parts) == 1:
            return self._parts[0].lengths[texts]
        borders = np.searchsorted(texts, np.asarray(self._starts, dtype=np.int32))
        own = zip(self._parts, self._starts, pairwise(borders.tolist()), strict=False)
        return np.concatenate([part.lengths[texts[low:high] - np.int32(first)] for part, first, (low, high) in own])

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Every term, in the order of first appearance -> in how many texts it stands."""
        sizes: dict[str, int] = {}
        for part in self._parts:
            for term, size in zip(part.terms, part.in_texts.tolist(), strict=True):
                sizes[term] = sizes.get(term, 0) + size
        return sizes

    def summed(self, values: Callable[[Sequence[str], NDArray[np.int32], Ints], Doubles]) -> Doubles:
        """(N,) for each text the sum over its terms of something.

        Args:
            values: terms (v,), counts (m,) and entries of each term (v,) of one table to (m,) what is summed.
        """
        sums = [
            np.bincount(part.texts, weights=values(part.terms, part.counts, part.in_texts), minlength=len(part.lengths))
            for part in self._parts
        ]
        return np.concatenate(sums)


def _count(
    block: array[int], lengths: array[int], first: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Text, term and count of every entry of the texts from `first` on."""
    own = np.frombuffer(lengths, dtype=np.int32)[first:]
    rows = np.repeat(np.arange(first, first + len(own), dtype=np.int64), own)
    keys, counts = np.unique(rows << 32 | np.frombuffer(block, dtype=np.int32), return_counts=True)
    return (keys >> 32).astype(np.int32), (keys & 0xFFFFFFFF).astype(np.int32), counts.astype(np.int32)
