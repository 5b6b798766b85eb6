"""Vectors of a corpus by workers on several machines, which see the project's folder: those of one process.

A worker reads, renders and encodes images in the batches of one process: a unit is a multiple of them. Captions go in
the groups that are tokenized together.

Shapes: N pairs, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from rag_diffusion.arrays import Floats, Ints
from rag_diffusion.engine.work import Engine
from rag_diffusion.layout import ENCODER
from rag_diffusion.progress import Progress
from rag_diffusion.retrieval.encoder import TEXTS_AT_ONCE, Encoder, by_length
from rag_diffusion.retrieval.threads import in_order
from rag_diffusion.store.shared_folder import open_pairs, same_files
from rag_diffusion.store.vectors import Vectors

IMAGES_OF_A_UNIT = 64  # a multiple of the batches of one process, on a core and on a GPU

Unit = TypeVar("Unit")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class EmbedPairs:
    """Units are rows of the corpus, whose images are encoded, or texts.

    Attributes:
        root: the project, on every machine.
        device: of the encoder, as in params.yaml.
        corpus_hash, encoder_hash: what the project of every machine must have.
    """

    root: Path
    device: str
    corpus_hash: str
    encoder_hash: str

    def open(self) -> Callable[[Ints | list[str]], Floats]:
        """See `Work.open`.

        Raises:
            LineageError: the project of this machine has another corpus or encoder.
        """
        pairs, encoder = open_pairs(self.root, self.corpus_hash), Encoder(self.root / ENCODER, device=self.device)
        same_files(self.root / ENCODER, self.encoder_hash, encoder.hash)

        def run(unit: Ints | list[str]) -> Floats:
            return encoder.texts(unit) if isinstance(unit, list) else encoder.images(pairs.pixels(unit))

        return lambda unit: alone(run, unit)


def alone(run: Callable[[Unit], Result], unit: Unit) -> Result:
    """`run` of a `unit` on one core, as a worker of `in_order` does it: the others have workers of their own."""
    return next(in_order(run, [unit], workers=1))


def spread_vectors(
    engine: Engine, work: EmbedPairs, captions: Sequence[str], parts: Sequence[Ints]
) -> tuple[Floats, Floats]:
    """Vectors of pairs by the workers of an engine.

    Args:
        engine: has the workers.
        work: names corpus and encoder.
        captions: N, of all pairs.
        parts: rows of the N pairs, those of each part in batches of their own.

    Returns:
        (N, D) of images and (N, D) of captions, in the order of the parts.
    """
    groups = [_groups(captions, rows) for rows in parts]
    units: list[Ints | list[str]] = [block for rows in parts for block in _blocks(rows, IMAGES_OF_A_UNIT)]
    num_images = len(units)
    units += [group for of_part in groups for group in of_part]
    results = list(_shown(engine.map(work, units), units))
    image, of_texts, text = np.concatenate(results[:num_images]), iter(results[num_images:]), []
    for rows, of_part in zip(parts, groups, strict=True):
        vectors = {one: vector for group in of_part for one, vector in zip(group, next(of_texts), strict=True)}
        text.append(np.stack([vectors[captions[row]] for row in rows]))
    return image, np.concatenate(text)


def embedded(vectors: tuple[Floats, Floats], parts: Sequence[Ints]) -> Vectors:
    """Vectors of parts in the order of the pairs.

    Args:
        vectors: (N, D) of images and (N, D) of captions, in the order of the parts.
        parts: rows of the N pairs.
    """
    order = np.argsort(np.concatenate(parts))
    image, text = vectors
    return Vectors(image[order], text[order])


def _groups(captions: Sequence[str], rows: Ints) -> list[list[str]]:
    """Distinct captions, those that are tokenized together in a list."""
    distinct = sorted({captions[row] for row in rows})
    return [[distinct[row] for row in block] for block in _blocks(by_length(distinct), TEXTS_AT_ONCE)]


def _blocks(rows: Ints, size: int) -> Iterator[Ints]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _shown(results: Iterator[Floats], units: Sequence[Ints | list[str]]) -> Iterator[Floats]:
    with Progress(total=sum(map(len, units)), desc="encode images and captions", unit="item") as bar:
        for vectors in results:
            bar.update(len(vectors))
            yield vectors
