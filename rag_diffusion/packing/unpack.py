"""Read a pack: render its drawings on every core, and give corpus and lists as training wants them."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from rag_diffusion.packing.layout import PAIRS
from rag_diffusion.readers.images import render_svg
from rag_diffusion.store.corpus import Corpus

_CHUNK = 256  # drawings a task


def open_corpus(pack: Path, image_size: int, corpus_hash: str, workers: int | None = None) -> Corpus:
    """The pack's pairs with their drawings rendered; those of an earlier call are taken again.

    Args:
        pack: the folder.
        image_size: side in pixels.
        corpus_hash: of the corpus that the pairs are from.
        workers: processes that render; None is one for each core.

    Returns:
        The corpus, in memory; its pairs keep no originals.
    """
    path = pack / PAIRS
    table = pq.read_table(path, columns=[name for name in pq.read_schema(path).names if name != "original"])
    rendered = pack / f"pixels-{image_size}.npy"
    if not rendered.exists():
        _render(path, rendered, image_size, workers or os.cpu_count() or 1)
    return Corpus.in_memory(pack, table, np.load(rendered), corpus_hash)


def _render(path: Path, out: Path, size: int, workers: int) -> None:
    originals = pq.read_table(path, columns=["original"])["original"].to_pylist()
    starts = range(0, len(originals), _CHUNK)
    pixels = np.empty((len(originals), size, size, 3), dtype=np.uint8)
    with ProcessPoolExecutor(workers) as pool:
        parts = pool.map(_render_some, (originals[start : start + _CHUNK] for start in starts), [size] * len(starts))
        for start, part in zip(starts, parts, strict=True):
            pixels[start : start + len(part)] = part
    beside = out.with_suffix(".tmp.npy")
    np.save(beside, pixels)
    beside.rename(out)


def _render_some(originals: list[bytes], size: int) -> np.ndarray:
    return np.stack([np.asarray(render_svg(svg, size, "a packed drawing")) for svg in originals])
