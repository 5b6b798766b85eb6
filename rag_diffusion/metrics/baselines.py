"""The variants that need no generator: the real image, the copied neighbor, the best of them, the repainted one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rag_diffusion.arrays import Ints
from rag_diffusion.metrics.judge import Judge
from rag_diffusion.metrics.scoring import Bench
from rag_diffusion.metrics.variants import Gallery, Variant, best_copies, neighbor_rows, real_rows, snapped
from rag_diffusion.retrieval.controls import answered, why_without


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """What was looked at once.

    Attributes:
        gallery: the candidates of the entity scorer, the real images and the neighbors.
        judge: of the run's prompts; None where the corpus cannot be judged.
        variants: real, copied and, where there is a judge, copied_best and copied_snap.
        absent: variant -> why it cannot be.
    """

    gallery: Gallery
    judge: Judge | None
    variants: dict[str, Variant]
    absent: dict[str, str]


def make_baselines(bench: Bench) -> Baselines:
    """Make them for the prompts of `bench`.

    Raises:
        LineageError: the corpus lacks a real image, or a prompt is not in the table of neighbors.
    """
    real = real_rows(bench.corpus, bench.prompts)
    answers = answered("copied", bench.prompts, bench.table.prompts)
    lists = [bench.table.prompts[bench.prompts[number].prompt_id].retrieved for number in answers]
    neighbors = neighbor_rows(bench.corpus, lists)
    rows = np.concatenate([bench.candidates, real, neighbors.ravel()])
    gallery = Gallery(bench.corpus, bench.ruler, bench.trunk, rows)
    variants = {"real": gallery.variant(real)}
    judge = None if bench.reason is not None else bench.judge(gallery.looks(bench.candidates).entity)
    absent = {}
    if len(answers):
        variants |= _copies(bench, gallery, judge, neighbors, answers)
    else:
        absent = dict.fromkeys(("copied", "copied_best", "copied_snap"), why_without("copied"))
    return Baselines(gallery=gallery, judge=judge, variants=variants, absent=absent)


def _copies(bench: Bench, gallery: Gallery, judge: Judge | None, neighbors: Ints, answers: Ints) -> dict[str, Variant]:
    """What a copied neighbor looks like, for the prompts that have one."""
    variants = {"copied": gallery.variant(neighbors[:, 0], answers)}
    if judge is not None:
        best = best_copies(gallery, neighbors, judge, answers)
        variants["copied_best"] = gallery.variant(best, answers)
        variants["copied_snap"] = _snapped(bench, variants["copied"], neighbors[:, 0])
    return variants


def _snapped(bench: Bench, copied: Variant, rows: Ints) -> Variant:
    colors, styles = bench.config.baselines.snap_colors, [bench.prompts[number].style for number in copied.answers]
    pixels = snapped(bench.corpus, rows, styles, num_colors=colors, seed=bench.config.seed)
    looks = bench.ruler.look(bench.trunk, pixels, desc="look at repainted copies")
    return Variant(pixels=pixels, looks=looks, pair_ids=copied.pair_ids, rows=copied.rows)
