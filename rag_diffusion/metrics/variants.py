"""Images of one variant for every prompt: those that need no generator, and reading those that a generator drew.

N prompts, K neighbors of each, H/W image.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rag_diffusion.arrays import Ints, Pixels
from rag_diffusion.colours import snap, style_palette
from rag_diffusion.errors import DataError, LineageError
from rag_diffusion.metrics.judge import Judge
from rag_diffusion.metrics.ruler.store import Looks, Ruler
from rag_diffusion.metrics.ruler.trunk import Trunk
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.types import Prompt


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One image for every prompt that the variant can answer.

    Attributes:
        pixels: (N, H, W, 3).
        looks: what the ruler sees in them.
        pair_ids: the pairs the images were taken from.
        rows: (N,) numbers of the prompts that they answer; None: all, in their order.
    """

    pixels: Pixels
    looks: Looks
    pair_ids: tuple[str, ...]
    rows: Ints | None = None

    @property
    def answers(self) -> Ints:
        """(N,) numbers of the prompts that the images answer."""
        return np.arange(len(self.pixels)) if self.rows is None else self.rows


class Gallery:
    """Corpus images that the ruler has looked at, each once.

    Args:
        corpus: where they are.
        ruler: the fixed scorers.
        trunk: that they look through.
        rows: row numbers of the images.
    """

    def __init__(self, corpus: Corpus, ruler: Ruler, trunk: Trunk, rows: Ints) -> None:
        self.corpus = corpus
        self.rows = np.unique(rows)
        self._looks = ruler.look(trunk, corpus.pixels(self.rows), desc="look at corpus images")
        self._pair_ids = corpus.table["pair_id"].to_numpy()

    def looks(self, rows: Ints) -> Looks:
        """What the ruler sees in corpus `rows` (n,) of the gallery."""
        return self._looks.rows(np.searchsorted(self.rows, rows))

    def variant(self, rows: Ints, answers: Ints | None = None) -> Variant:
        """Images of corpus `rows` (N,) as the answers to the prompts, or to those numbered `answers` (N,)."""
        pair_ids = tuple(self._pair_ids[rows])
        return Variant(pixels=self.corpus.pixels(rows), looks=self.looks(rows), pair_ids=pair_ids, rows=answers)


def real_rows(corpus: Corpus, prompts: Sequence[Prompt]) -> Ints:
    """Row of the real image of each prompt: its entity in its style, or the pair a user's prompt was made from.

    Args:
        corpus: where they are.
        prompts: N.

    Returns:
        (N,) rows of the corpus.

    Raises:
        LineageError: the corpus has no such drawing.
    """
    drawings = zip(corpus.table["entity"], corpus.table["style"], strict=True)
    rows: dict[tuple[str, str], int] = {}
    for row, drawing in enumerate(drawings):
        rows.setdefault(drawing, row)
    known = {pair_id: row for row, pair_id in enumerate(corpus.table["pair_id"])}
    real = [known.get(prompt.prompt_id, rows.get((prompt.entity, prompt.style))) for prompt in prompts]
    missing = [prompt.prompt_id for prompt, row in zip(prompts, real, strict=True) if row is None]
    if missing:
        raise LineageError(
            f"prompts: expected drawings of their entities in corpus {corpus.hash[:12]}, got none for {missing[:5]}; "
            "prompts and corpus do not belong together: restore data/prompts with git"
        )
    return np.array(real, dtype=np.int64)


def neighbor_rows(corpus: Corpus, lists: Sequence[Sequence[str]]) -> Ints:
    """Rows (N, K) in `corpus` of the pair ids in N `lists`, none empty, best first.

    K is what the longest list has; a shorter one goes on with its best again.
    """
    most = max((len(names) for names in lists), default=0)
    rows = [corpus.rows([*names, *[names[0]] * (most - len(names))]) for names in lists]
    return np.stack(rows) if rows else np.empty((0, 0), dtype=np.int64)


def best_copies(gallery: Gallery, neighbors: Ints, judge: Judge, answers: Ints) -> Ints:
    """Of the K neighbors (N, K) the row that the ruler likes best: joint, then entity, then style, then rank.

    Args:
        gallery: has looked at them.
        neighbors: of N prompts.
        judge: of all prompts.
        answers: (N,) the numbers of the N prompts.

    Returns:
        (N,) rows of the corpus.
    """
    chosen = []
    for prompt, rows in zip(answers.tolist(), neighbors, strict=True):
        looks = gallery.looks(rows)
        verdicts = [judge.candidate_verdict(looks, rank, prompt) for rank in range(len(rows))]
        liked = [(sum(verdict), verdict[0], -rank) for rank, verdict in enumerate(verdicts)]
        chosen.append(rows[-max(liked)[2]])
    return np.array(chosen, dtype=np.int64)


def snapped(corpus: Corpus, rows: Ints, styles: Sequence[str], *, num_colors: int, seed: int) -> Pixels:
    """Corpus images, each repainted in the palette of a style that is made from its train images.

    Args:
        corpus: where they are.
        rows: (N,) which.
        styles: N, whose palette each gets.
        num_colors: of a palette.
        seed: of the palettes.

    Returns:
        (N, H, W, 3).
    """
    table = corpus.table
    palettes = {}
    for style in sorted(set(styles)):
        train = np.flatnonzero((table["style"] == style) & (table["split"] == "train"))
        palettes[style] = style_palette(corpus.pixels(train), num_colors, seed=seed)
    return np.stack([snap(image, palettes[style]) for image, style in zip(corpus.pixels(rows), styles, strict=True)])


def read_samples(
    path: Path,
    prompts: Sequence[Prompt],
    without: Mapping[str, Collection[str]] | None = None,
    *,
    finished: bool = False,
) -> dict[str, tuple[Pixels, Ints]]:
    """Images of every variant that the generator drew, in the order of the prompts.

    Args:
        path: samples.parquet.
        prompts: the prompts of the run.
        without: by variant, ids of prompts that it could not answer.
        finished: what the last stage of a cascade drew, in place of what the first one did.

    Returns:
        Variant name to (N, H, W, 3) images and the (N,) numbers of the prompts that they answer.

    Raises:
        DataError: the file is missing or damaged.
        LineageError: it holds other prompts.
    """
    try:
        table = pq.read_table(path, columns=["prompt_id", "variant", "image", "first_stage"]).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: expected samples, got {error}; run the stage `sample`") from None
    wanted = [prompt.prompt_id for prompt in prompts]
    files: dict[str, dict[str, bytes]] = {}
    for row in table:
        first = None if finished else row["first_stage"]
        files.setdefault(row["variant"], {})[row["prompt_id"]] = first or row["image"]
    samples: dict[str, tuple[Pixels, Ints]] = {}
    for name, images in files.items():
        due = set(wanted) - set((without or {}).get(name, ()))
        if set(images) != due:
            raise LineageError(
                f"{path}: expected {len(due)} prompts of variant {name!r}, got {len(images)} others or too few; the "
                "samples were drawn for other prompts: run the stage `sample` again"
            )
        rows = np.array([row for row, prompt_id in enumerate(wanted) if prompt_id in due], dtype=np.int64)
        samples[name] = np.stack([decode_png(images[wanted[row]]) for row in rows]), rows
    return samples


def decode_png(content: bytes) -> Pixels:
    """PNG bytes, `content`, as (H, W, 3) uint8 RGB."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))
