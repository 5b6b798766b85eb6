"""Images of one variant for every prompt: those that need no generator, and reading those that a generator drew.

N prompts, K neighbors of each, H/W image.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from rag_diffusion.corpus.store import Corpus
from rag_diffusion.errors import DataError, LineageError
from rag_diffusion.metrics.judge import Judge
from rag_diffusion.metrics.ruler.palette import snap, style_palette
from rag_diffusion.metrics.ruler.store import Looks, Ruler
from rag_diffusion.metrics.ruler.trunk import Trunk
from rag_diffusion.retrieval.neighbors import PromptNeighbors
from rag_diffusion.types import Prompt

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One image for every prompt.

    Attributes:
        pixels: (N, H, W, 3).
        looks: what the ruler sees in them.
        pair_ids: the pairs the images were taken from.
    """

    pixels: Pixels
    looks: Looks
    pair_ids: tuple[str, ...]


class Gallery:
    """Corpus images that the ruler has looked at, each once.

    Args:
        corpus: where they are.
        ruler: the fixed scorers.
        trunk: that they look through.
        rows: row numbers of the images.
    """

    def __init__(self, corpus: Corpus, ruler: Ruler, trunk: Trunk, rows: NDArray[np.int64]) -> None:
        self.corpus = corpus
        self.rows = np.unique(rows)
        self._looks = ruler.look(trunk, corpus.pixels(self.rows), desc="look at corpus images")
        self._pair_ids = corpus.table["pair_id"].to_numpy()

    def looks(self, rows: NDArray[np.int64]) -> Looks:
        """What the ruler sees in corpus rows (n,) of the gallery."""
        return self._looks.rows(np.searchsorted(self.rows, rows))

    def variant(self, rows: NDArray[np.int64]) -> Variant:
        """Corpus images as the answers to the prompts."""
        return Variant(pixels=self.corpus.pixels(rows), looks=self.looks(rows), pair_ids=tuple(self._pair_ids[rows]))


def real_rows(corpus: Corpus, prompts: Sequence[Prompt]) -> NDArray[np.int64]:
    """Row of the real image of each prompt: its entity in its style, or the pair a user's prompt was made from.

    Raises:
        LineageError: the corpus has no such drawing.
    """
    drawings = zip(corpus.table["entity"], corpus.table["style"], strict=True)
    rows: dict[tuple[str, str], int] = {}
    for row, drawing in enumerate(drawings):
        rows.setdefault(drawing, row)
    known = {pair_id: row for row, pair_id in enumerate(corpus.table["pair_id"])}
    found = [known.get(prompt.prompt_id, rows.get((prompt.entity, prompt.style))) for prompt in prompts]
    missing = [prompt.prompt_id for prompt, row in zip(prompts, found, strict=True) if row is None]
    if missing:
        raise LineageError(
            f"prompts: expected drawings of their entities in corpus {corpus.hash[:12]}, got none for {missing[:5]}; "
            "prompts and corpus do not belong together: restore data/prompts with git"
        )
    return np.array(found, dtype=np.int64)


def neighbor_rows(
    corpus: Corpus, prompts: Sequence[Prompt], neighbors: dict[str, PromptNeighbors]
) -> NDArray[np.int64]:
    """Rows (N, K) of the retrieved neighbors, best first; K is what the shortest list has.

    Raises:
        LineageError: a prompt has no neighbors in the table.
    """
    lists = [neighbors[prompt.prompt_id].retrieved if prompt.prompt_id in neighbors else () for prompt in prompts]
    fewest = min(len(names) for names in lists)
    if fewest == 0:
        empty = [prompt.prompt_id for prompt, names in zip(prompts, lists, strict=True) if not names]
        raise LineageError(
            f"neighbors: expected retrieved neighbors of every prompt, got none for {empty[:5]}; run the stage "
            "`neighbors`, or lower retrieval.threshold"
        )
    return np.stack([corpus.rows(names[:fewest]) for names in lists])


def best_copies(gallery: Gallery, neighbors: NDArray[np.int64], judge: Judge) -> NDArray[np.int64]:
    """Of the K neighbors (N, K) the row that the ruler likes best: joint, then entity, then style, then rank."""
    chosen = []
    for prompt, rows in enumerate(neighbors):
        looks = gallery.looks(rows)
        verdicts = [judge.candidate_verdict(looks, rank, prompt) for rank in range(len(rows))]
        liked = [(sum(verdict), verdict[0], -rank) for rank, verdict in enumerate(verdicts)]
        chosen.append(rows[-max(liked)[2]])
    return np.array(chosen, dtype=np.int64)


def snapped(corpus: Corpus, rows: NDArray[np.int64], styles: Sequence[str], *, num_colors: int, seed: int) -> Pixels:
    """Images (N, H, W, 3) of corpus rows, each repainted in the palette of a style, made from its train images."""
    table = corpus.table
    palettes = {}
    for style in sorted(set(styles)):
        train = np.flatnonzero((table["style"] == style) & (table["split"] == "train"))
        palettes[style] = style_palette(corpus.pixels(train), num_colors, seed=seed)
    return np.stack([snap(image, palettes[style]) for image, style in zip(corpus.pixels(rows), styles, strict=True)])


def read_samples(path: Path, prompts: Sequence[Prompt]) -> dict[str, Pixels]:
    """Images of every variant that the generator drew, in the order of the prompts.

    Args:
        path: samples.parquet.
        prompts: the N prompts of the run.

    Returns:
        Variant name to (N, H, W, 3) images.

    Raises:
        DataError: the file is missing or damaged.
        LineageError: it holds other prompts.
    """
    try:
        table = pq.read_table(path, columns=["prompt_id", "variant", "image"]).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: expected samples, got {error}; run the stage `sample`") from None
    wanted = [prompt.prompt_id for prompt in prompts]
    found: dict[str, dict[str, bytes]] = {}
    for row in table:
        found.setdefault(row["variant"], {})[row["prompt_id"]] = row["image"]
    for name, images in found.items():
        if set(images) != set(wanted):
            raise LineageError(
                f"{path}: expected {len(wanted)} prompts of variant {name!r}, got {len(images)} others or too few; the "
                "samples were drawn for other prompts: run the stage `sample` again"
            )
    return {name: np.stack([decode_png(images[prompt_id]) for prompt_id in wanted]) for name, images in found.items()}


def decode_png(content: bytes) -> Pixels:
    """PNG bytes as (H, W, 3) uint8 RGB."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))
