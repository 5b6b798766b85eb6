"""Stage `baselines`: the ruler on real images and on every variant that needs no generator."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rag_diffusion import layout
from rag_diffusion.files import atomic_dir, atomic_write
from rag_diffusion.metrics.archive import Archive, write_archive
from rag_diffusion.metrics.baselines import make_baselines
from rag_diffusion.metrics.judge import Judge, Verdicts
from rag_diffusion.metrics.report import flat_metrics, flat_rows
from rag_diffusion.metrics.scoring import Bench
from rag_diffusion.metrics.variants import Gallery, Variant
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.tracking import Tracker

_LOG = logging.getLogger(__name__)

MAX_COPIED_JOINT = 0.10  # a ruler that gives more to a copied neighbor does not look at its style
REPORT = f"{layout.REPORTS}/baselines.json"
_SHOWN = 12  # images of a variant in the tracked strip


def run(ctx: StageContext) -> None:
    """Write data/baselines and reports/baselines.json.

    Raises:
        LineageError: prompts, neighbors and corpus do not belong together, or a target is among the neighbors.
        ModelError: the ruler is damaged or has seen an entity, or the extractor cannot be had.
    """
    bench = Bench.open(ctx.root, ctx.config)
    baselines = make_baselines(bench)
    variants, features = baselines.variants, baselines.gallery.looks(bench.candidates).entity
    verdicts: dict[str, Verdicts] = {}
    checks: dict[str, Any] = {}
    if baselines.judge is not None:
        verdicts = {name: baselines.judge.verdicts(variant.looks, variant.rows) for name, variant in variants.items()}
        checks = _checks(bench, baselines.gallery, baselines.judge, variants, verdicts)
    report = bench.report(variants, verdicts, baselines.absent) | checks
    with atomic_dir(ctx.root / layout.BASELINES) as folder:
        stamp = {"corpus_hash": bench.corpus.hash, "ruler_sha256": bench.ruler.sha256}
        archive = Archive(variants=variants, prototypes=features, real_test=checks.get("real_test"),
                          absent=baselines.absent)  # fmt: skip
        write_archive(folder, prompts=bench.prompts, archive=archive, verdicts=verdicts, stamp=stamp)
    atomic_write(ctx.root / REPORT, json.dumps(report, indent=1) + "\n")
    _track(ctx.tracker, ctx.root, report, variants)


def _checks(
    bench: Bench, gallery: Gallery, judge: Judge, variants: dict[str, Variant], verdicts: dict[str, Verdicts]
) -> dict[str, Any]:
    """What must hold for the table to mean anything; `score` refuses where `real_accuracy` does not."""
    real = bench.real_accuracy(gallery.looks(bench.candidates).entity, gallery.looks(bench.candidates))
    least = bench.config.score.min_real_accuracy
    shuffled = judge.shuffled_joint(variants["real"].looks)
    passed = {"real_accuracy": min(real["entity"], real["style"]) >= least}
    if "copied" in verdicts:
        passed["copied_joint_below_0.10"] = float(verdicts["copied"].values("joint").mean()) < MAX_COPIED_JOINT
    passed["shuffled_labels_give_chance"] = shuffled <= 3 * judge.chance["joint"] + 0.005
    for name, good in passed.items():
        _LOG.log(logging.INFO if good else logging.WARNING, "check %s: %s", name, "passed" if good else "FAILED")
    return {"chance": judge.chance, "shuffled_joint": shuffled, "real_test": real, "checks": passed}


def _track(tracker: Tracker, root: Path, report: dict[str, Any], variants: dict[str, Variant]) -> None:
    tracker.log_dataset("corpus", report["corpus_hash"], layout.CORPUS)
    tracker.set_tags({"ruler_sha256": report["ruler_sha256"]})
    tracker.log_metrics(flat_metrics(report["variants"]))
    tracker.log_table(flat_rows(report["variants"]), "baselines")
    tracker.log_artifact(root / REPORT)
    for name, variant in variants.items():
        strip = np.concatenate(list(variant.pixels[:_SHOWN]), axis=1)
        tracker.log_image(Image.fromarray(strip), f"baselines/{name}")
