"""Which index suits so many vectors: what `index.factory: auto` chooses from, and the words that are not faiss's.

Shapes: N vectors, D width.

Source: benchmarks/2026-11-30-search.md; the authors of ScaNN advise to be exact below 20,000 vectors as well.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass

from rag_diffusion.config import IndexConfig
from rag_diffusion.errors import ConfigError

AUTO = "auto"
EXACT = "Flat"
EXACT_BELOW = 4096  # vectors; so few are searched exhaustively, whatever `index.factory` says
AUTO_EXACT_BELOW = 20_000  # the same of `auto`
HNSW_BELOW = 50_000  # vectors; of more, lists of codes are built in seconds and take a tenth of the memory of a graph
_LINKS = 32  # of a vector in a graph, twice as many in its lowest layer
_MOST_LISTS = 16_384
_INDEXES = 2  # of images and of captions
_SCANN = re.compile(r"ScaNN(\d*)")
_RESCORED = ",RMapped"


@dataclass(frozen=True, kw_only=True)
class Factory:
    """What `index.factory` asks for.

    Attributes:
        library: `faiss` or `scann`.
        coarse: what the library is asked for: a factory string of faiss, or the number of leaves of ScaNN's tree, none
            for the square root of N.
        rescored: whether hits are scored again by the vectors where they lie.
    """

    library: str
    coarse: str
    rescored: bool

    @classmethod
    def parse(cls, text: str) -> Factory:
        """Read `index.factory` from `text`: a factory string of faiss, which `,RMapped` may follow, or `ScaNN`."""
        scann = _SCANN.fullmatch(text)
        if scann:
            return cls(library="scann", coarse=scann[1], rescored=True)
        return cls(library="faiss", coarse=text.removesuffix(_RESCORED), rescored=text.endswith(_RESCORED))


def choices(factory: str, rows: int, width: int, *, memory: float, min_recall: float) -> list[str]:
    """Factories to try one after the other until one recalls enough.

    Args:
        factory: `index.factory`; anything but `auto` stays as it is.
        rows: N.
        width: D.
        memory: GiB that the indexes of a data set may take; 0 is half of what the machine has.
        min_recall: recall@10 that is asked for.
    """
    if factory != AUTO:
        return [EXACT if rows < EXACT_BELOW else factory]
    if rows < AUTO_EXACT_BELOW or min_recall >= 1:
        return [EXACT]
    free = (memory or _memory() / 2) * 2**30
    found = []
    if rows < HNSW_BELOW and _INDEXES * rows * (4 * width + 8 * _LINKS) <= free:
        found.append(f"HNSW{_LINKS}")
    lists = min(_MOST_LISTS, 2 ** round(math.log2(rows) / 2))  # the square root of N, as a power of two
    for dimensions in (2, 4, 8):
        codes = width // dimensions if width % dimensions == 0 else width
        if _INDEXES * rows * (codes / 2 + 8) <= free:
            found.append(f"IVF{lists},PQ{codes}x4fsr{_RESCORED}")
            break
    return [*found, EXACT]


def shards_for(config: IndexConfig, rows: int) -> int:
    """How many shards the index of a segment has: `index.shards`, fewer where one would be searched exhaustively.

    Args:
        config: which index, and how many shards at most.
        rows: N.
    """
    least = AUTO_EXACT_BELOW if config.factory == AUTO else EXACT_BELOW
    return max(1, min(config.shards, rows // least))


def leaves_of(factory: Factory, rows: int) -> int:
    """How many leaves the tree of ScaNN has that a `factory` asks for over so many `rows`.

    Raises:
        ConfigError: there are not so many vectors.
    """
    leaves = int(factory.coarse or round(rows**0.5))
    if not 1 <= leaves <= rows:
        raise ConfigError(f"index.factory: expected ScaNN with 1 to {rows} leaves for so many vectors, got {leaves}")
    return leaves


def _memory() -> float:
    """GiB that the machine has; 8 where it does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (AttributeError, OSError, ValueError):
        return 8.0
