"""The variants that need no generator: the real image, the copied neighbor, the best of them, the repainted one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag_diffusion.metrics.judge import Judge
from rag_diffusion.metrics.scoring import Bench
from rag_diffusion.metrics.variants import Gallery, Variant, best_copies, neighbor_rows, real_rows, snapped


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """What was looked at once.

    Attributes:
        gallery: the candidates of the entity scorer, the real images and the neighbors.
        judge: of the run's prompts; None where the corpus cannot be judged.
        variants: real, copied and, where there is a judge, copied_best and copied_snap.
    """

    gallery: Gallery
    judge: Judge | None
    variants: dict[str, Variant]


def make_baselines(bench: Bench) -> Baselines:
    """Make them for the prompts of a bench.

    Raises:
        LineageError: the corpus lacks a real image, or a prompt has no neighbors.
    """
    real = real_rows(bench.corpus, bench.prompts)
    neighbors = neighbor_rows(bench.corpus, bench.prompts, bench.table.prompts)
    rows = np.concatenate([bench.candidates, real, neighbors.ravel()])
    gallery = Gallery(bench.corpus, bench.ruler, bench.trunk, rows)
    variants = {"real": gallery.variant(real), "copied": gallery.variant(neighbors[:, 0])}
    judge = None
    if bench.reason is None:
        judge = bench.judge(gallery.looks(bench.candidates).entity)
        variants["copied_best"] = gallery.variant(best_copies(gallery, neighbors, judge))
        variants["copied_snap"] = _snapped(bench, variants["copied"], neighbors[:, 0])
    return Baselines(gallery=gallery, judge=judge, variants=variants)


def _snapped(bench: Bench, copied: Variant, rows: NDArray[np.int64]) -> Variant:
    colors = bench.config.baselines.snap_colors
    pixels = snapped(bench.corpus, rows, [p.style for p in bench.prompts], num_colors=colors, seed=bench.config.seed)
    looks = bench.ruler.look(bench.trunk, pixels, desc="look at repainted copies")
    return Variant(pixels=pixels, looks=looks, pair_ids=copied.pair_ids)
