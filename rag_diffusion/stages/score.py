"""Stage `score`: distances and accuracies of every variant, with intervals, against the baselines."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rag_diffusion import layout
from rag_diffusion.arrays import Ints, Pixels
from rag_diffusion.files import atomic_write
from rag_diffusion.metrics.archive import check_provenance, read_archive
from rag_diffusion.metrics.judge import METRICS, Judge, Verdicts
from rag_diffusion.metrics.plots import accuracy_plot, as_image
from rag_diffusion.metrics.report import as_csv, flat_metrics, flat_rows, headline, verdict
from rag_diffusion.metrics.scoring import Bench, refuse_blunt_ruler
from rag_diffusion.metrics.variants import Variant, read_samples
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.tracking import Tracker

_LOG = logging.getLogger(__name__)

REPORT = f"{layout.REPORTS}/metrics.json"
_SCALED_BY = Image.Resampling.BOX
SCORES = f"{layout.REPORTS}/scores.json"
CSV = f"{layout.REPORTS}/plots/accuracy.csv"
PLOT = f"{layout.REPORTS}/plots/accuracy.png"


def run(ctx: StageContext) -> None:
    """Write reports/metrics.json, reports/scores.json, reports/plots/accuracy.csv and accuracy.png.

    Finished pictures are judged: those of a cascade at the corpus' size again, beside what its first stage drew.

    Raises:
        ModelError: the ruler does not recognise real test images well enough, has seen a test entity, or is damaged.
        LineageError: samples, baselines, corpus and prompts do not belong together.
    """
    bench = Bench.open(ctx.root, ctx.config)
    expected = {"corpus_hash": bench.corpus.hash, "ruler_sha256": bench.ruler.sha256}
    archive = read_archive(ctx.root / layout.BASELINES, prompts=bench.prompts, expected=expected)
    if bench.reason is None:
        refuse_blunt_ruler(archive.real_test, ctx.config.score.min_real_accuracy)
    provenance = check_provenance(ctx.root / layout.SAMPLES, bench.corpus.hash)
    variants = dict(archive.variants)
    path, without = ctx.root / layout.SAMPLES / "samples.parquet", provenance.get("without", {})
    samples = read_samples(path, bench.prompts, without, finished=True)
    for name, (finished, rows) in samples.items():
        pixels = _scaled(finished, bench.corpus.image_size)
        looks = bench.ruler.look(bench.trunk, pixels, desc=f"look at samples, {name}")
        variants[name] = Variant(pixels=pixels, looks=looks, pair_ids=("",) * len(pixels), rows=rows)
    verdicts: dict[str, Verdicts] = {}
    checks: dict[str, Any] = {}
    if bench.reason is None:
        judge = bench.judge(archive.prototypes)
        verdicts = {name: judge.verdicts(variant.looks, variant.rows) for name, variant in variants.items()}
        checks = {"chance": judge.chance, "real_test": archive.real_test}
        large = next(iter(samples.values()))[0].shape[1]
        if large != bench.corpus.image_size:
            first = read_samples(path, bench.prompts, without)
            checks["cascade"] = {"image_size": large} | _first_stage(bench, judge, first, verdicts)
    report = bench.report(variants, verdicts, archive.absent | provenance.get("absent", {})) | checks
    report["verdict"] = verdict(report["differences"]) if bench.reason is None else f"not judged: {bench.reason}"
    _write(ctx.root, report)
    _track(ctx.tracker, ctx.root, report)
    for sentence in (*report["notes"], report["verdict"]):
        _LOG.info(sentence)


def _scaled(pixels: Pixels, side: int) -> Pixels:
    """Images (N, H, W, 3) at the size that the ruler knows."""
    if pixels.shape[1] == side:
        return pixels
    return np.stack([np.asarray(Image.fromarray(image).resize((side, side), _SCALED_BY)) for image in pixels])


def _first_stage(
    bench: Bench, judge: Judge, samples: Mapping[str, tuple[Pixels, Ints]], verdicts: Mapping[str, Verdicts]
) -> dict[str, Any]:
    """What the first stage of a cascade drew by itself, and by how much the finished pictures are better."""
    first = {}
    for name, (pixels, rows) in samples.items():
        judged = judge.verdicts(bench.ruler.look(bench.trunk, pixels, desc=f"look at the first stage, {name}"), rows)
        first[name] = {metric: float(judged.values(metric).mean()) for metric in METRICS}
    changes = {
        name: {metric: float(verdicts[name].values(metric).mean()) - mean for metric, mean in means.items()}
        for name, means in first.items()
    }
    return {"first_stage": first, "changes": changes}


def _write(root: Path, report: dict[str, Any]) -> None:
    atomic_write(root / CSV, as_csv(report["variants"]))
    atomic_write(root / PLOT, accuracy_plot(report["variants"], num_prompts=report["num_prompts"]))
    atomic_write(root / REPORT, json.dumps(report, indent=1) + "\n")
    atomic_write(root / SCORES, json.dumps(headline(report), indent=1) + "\n")


def _track(tracker: Tracker, root: Path, report: dict[str, Any]) -> None:
    tracker.log_dataset("corpus", report["corpus_hash"], layout.CORPUS, "evaluation")
    tracker.set_tags({"ruler_sha256": report["ruler_sha256"], "verdict": report["verdict"]})
    tracker.log_metrics(flat_metrics(report["variants"]))
    tracker.log_metrics(
        {f"difference.{name}": values["joint"]["mean"] for name, values in report.get("differences", {}).items()}
    )
    for name, means in report.get("cascade", {}).get("first_stage", {}).items():
        tracker.log_metrics({f"first_stage.{name}.{metric}": mean for metric, mean in means.items()})
    tracker.log_table(flat_rows(report["variants"]), "scores")
    tracker.log_image(as_image((root / PLOT).read_bytes()), "accuracy", step=0)
    for name in (REPORT, CSV):
        tracker.log_artifact(root / name)
