"""What a generator in training can do, from time to time: drawings of validation captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from rag_diffusion.arrays import Pixels
from rag_diffusion.models.generator import Generator
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.sampling.drawing import draw_texts
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.training.loop import Hook

_PICTURES = 8


def pictures(ctx: StageContext, corpus: Corpus, neighbors: Mapping[str, Sequence[str]]) -> Hook:
    """A hook that draws a few validation captions and logs a grid: neighbors above, the drawing below.

    Args:
        ctx: of the stage; its tracker gets the grid, and its seed chooses the pairs.
        corpus: where the pairs are.
        neighbors: validation pair -> its neighbors, best first.
    """
    names = sorted(neighbors)
    chosen = [names[number] for number in np.random.default_rng(ctx.config.seed).permutation(len(names))[:_PICTURES]]
    lists = [list(neighbors[name][: ctx.config.retrieval.content]) for name in chosen]
    captions = corpus.cells("caption", corpus.rows(chosen))
    precision = ctx.config.sample.precision

    def preview(generator: Generator, step: int) -> None:
        if chosen:
            images = draw_texts(generator, corpus, captions, lists, range(len(chosen)), precision=precision)
            ctx.tracker.log_image(_grid(corpus, lists, images), "validation", step)

    return preview


def _grid(corpus: Corpus, lists: Sequence[Sequence[str]], images: Pixels) -> Image.Image:
    """One column an image: its neighbors, then the drawing."""
    rows = max(len(names) for names in lists) + 1
    side = images.shape[1]
    grid = np.full((rows * side, len(lists) * side, 3), 255, dtype=np.uint8)
    for column, names in enumerate(lists):
        across = slice(column * side, (column + 1) * side)
        for row, pixels in enumerate(corpus.pixels(corpus.rows(names))):
            grid[row * side : (row + 1) * side, across] = pixels
        grid[-side:, across] = images[column]
    return Image.fromarray(grid)
