"""Stage `score`: distances and accuracies of every variant, with intervals, against the baselines."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rag_diffusion import layout
from rag_diffusion.errors import LineageError, ModelError
from rag_diffusion.files import atomic_write
from rag_diffusion.metrics.archive import read_archive
from rag_diffusion.metrics.judge import Verdicts
from rag_diffusion.metrics.plots import accuracy_plot, as_image
from rag_diffusion.metrics.report import as_csv, flat_metrics, flat_rows, verdict
from rag_diffusion.metrics.scoring import Bench
from rag_diffusion.metrics.variants import Variant, read_samples
from rag_diffusion.stages.context import StageContext
from rag_diffusion.tracking import Tracker

_LOG = logging.getLogger(__name__)

REPORT = f"{layout.REPORTS}/metrics.json"
SCORES = f"{layout.REPORTS}/scores.json"
SHOWN = (
    "joint",
    "entity",
    "style",
    "kid",
    "own_real_nearest",
    "prompt_agreement",
)  # few enough for a table that one can read
CSV = f"{layout.REPORTS}/plots/accuracy.csv"
PLOT = f"{layout.REPORTS}/plots/accuracy.png"


def run(ctx: StageContext) -> None:
    """Write reports/metrics.json, reports/scores.json, reports/plots/accuracy.csv and accuracy.png.

    Raises:
        ModelError: the ruler does not recognise real test images well enough, has seen a test entity, or is damaged.
        LineageError: samples, baselines, corpus and prompts do not belong together.
    """
    bench = Bench.open(ctx.root, ctx.config)
    expected = {"corpus_hash": bench.corpus.hash, "ruler_sha256": bench.ruler.sha256}
    archive = read_archive(ctx.root / layout.BASELINES, prompts=bench.prompts, expected=expected)
    if bench.reason is None:
        refuse_blunt_ruler(archive.real_test, ctx.config.score.min_real_accuracy)
    told = check_provenance(ctx.root / layout.SAMPLES, bench.corpus.hash)
    variants = dict(archive.variants)
    samples = read_samples(ctx.root / layout.SAMPLES / "samples.parquet", bench.prompts, told.get("without", {}))
    for name, (pixels, rows) in samples.items():
        looks = bench.ruler.look(bench.trunk, pixels, desc=f"look at samples, {name}")
        variants[name] = Variant(pixels=pixels, looks=looks, pair_ids=("",) * len(pixels), rows=rows)
    verdicts: dict[str, Verdicts] = {}
    checks: dict[str, Any] = {}
    if bench.reason is None:
        judge = bench.judge(archive.prototypes)
        verdicts = {name: judge.verdicts(variant.looks, variant.rows) for name, variant in variants.items()}
        checks = {"chance": judge.chance, "real_test": archive.real_test}
    report = bench.report(variants, verdicts, archive.absent | told.get("absent", {})) | checks
    report["verdict"] = verdict(report["differences"]) if bench.reason is None else f"not judged: {bench.reason}"
    _write(ctx.root, report)
    _track(ctx.tracker, ctx.root, report)
    for sentence in (*report["notes"], report["verdict"]):
        _LOG.info(sentence)


def refuse_blunt_ruler(real: dict[str, float] | None, least: float) -> None:
    """Refuse to score with a ruler that does not recognise real test images.

    Args:
        real: accuracy on real test images, by scorer.
        least: what entity and style must reach.

    Raises:
        LineageError: nothing was measured on real images.
        ModelError: one of them does not.
    """
    if real is None:
        raise LineageError(
            f"{layout.BASELINES}: expected accuracies on real test images, got none; run the stage `baselines`"
        )
    if min(real["entity"], real["style"]) < least:
        raise ModelError(
            f"ruler: expected at least {least:.2f} of {real['num_images']} real test images to be recognised, got "
            f"entity {real['entity']:.3f} and style {real['style']:.3f}; scores by it would mean little: make a better "
            "ruler on validation entities (pipelines/ruler), never with generated images in view"
        )


def check_provenance(folder: Path, corpus_hash: str) -> dict[str, Any]:
    """What is said of samples as a whole; refuse those that were drawn with another corpus.

    Raises:
        LineageError: their provenance names another corpus.
    """
    path = folder / "provenance.json"
    if not path.is_file():
        raise LineageError(f"{path}: expected where the samples come from, found none; run the stage `sample` again")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    found = content.get("corpus_hash")
    if found != corpus_hash:
        raise LineageError(
            f"{path}: expected samples drawn with corpus {corpus_hash[:12]}…, got {str(found)[:12]}…; "
            "run the stage `sample` again"
        )
    return content


def _write(root: Path, report: dict[str, Any]) -> None:
    atomic_write(root / CSV, as_csv(report["variants"]))
    atomic_write(root / PLOT, accuracy_plot(report["variants"], num_prompts=report["num_prompts"]))
    atomic_write(root / REPORT, json.dumps(report, indent=1) + "\n")
    atomic_write(root / SCORES, json.dumps(headline(report), indent=1) + "\n")


def headline(report: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Of a report the means of `SHOWN` by variant, and the differences in joint accuracy."""
    found: dict[str, dict[str, float]] = {}
    for name, value in flat_metrics(report["variants"]).items():
        variant, metric = name.split(".")
        if metric in SHOWN:
            found.setdefault(variant, {})[metric] = value
    joint = {name: values["joint"]["mean"] for name, values in report.get("differences", {}).items()}
    return found | ({"difference": joint} if joint else {})


def _track(tracker: Tracker, root: Path, report: dict[str, Any]) -> None:
    tracker.log_dataset("corpus", report["corpus_hash"], layout.CORPUS)
    tracker.set_tags({"ruler_sha256": report["ruler_sha256"], "verdict": report["verdict"]})
    tracker.log_metrics(flat_metrics(report["variants"]))
    tracker.log_metrics(
        {f"difference.{name}": values["joint"]["mean"] for name, values in report.get("differences", {}).items()}
    )
    tracker.log_table(flat_rows(report["variants"]), "scores")
    tracker.log_image(as_image((root / PLOT).read_bytes()), "accuracy", step=0)
    for name in (REPORT, CSV):
        tracker.log_artifact(root / name)
