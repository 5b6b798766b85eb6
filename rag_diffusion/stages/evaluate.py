"""Stage `evaluate` (pipelines/evaluate): the full protocol.

Every variant on all test prompts; accuracy by the number of drawings in the knowledge base; on validation prompts,
curves by the number of neighbors and by guidance; a page to look at. What was drawn outlives an interruption.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rag_diffusion import layout
from rag_diffusion.device import choose_device
from rag_diffusion.errors import ModelError
from rag_diffusion.files import tree_hash
from rag_diffusion.metrics import two_entities
from rag_diffusion.metrics.aims import aims
from rag_diffusion.metrics.baselines import make_baselines
from rag_diffusion.metrics.curves import Curves
from rag_diffusion.metrics.drawn import by_drawings, by_training_step, drawn_variants
from rag_diffusion.metrics.evaluation import evaluation_page, write_evaluation
from rag_diffusion.metrics.report import verdict
from rag_diffusion.metrics.scoring import Bench, refuse_blunt_ruler
from rag_diffusion.models.load import load_generator
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.training.card import read_card, refuse_seen
from rag_diffusion.training.validation import make_probe, placement_curve

_LOG = logging.getLogger(__name__)


def run(ctx: StageContext) -> None:
    """Write pipelines/evaluate/result; `rag-diffusion evaluate` copies it to reports/.

    Raises:
        ModelError: the corpus is not one that the ruler can judge, or the ruler is too blunt.
        LineageError: artifacts do not belong together, or the model has seen a held-out entity.
    """
    config = ctx.config.model_copy(
        update={"sample": ctx.config.sample.model_copy(update={"prompts": ctx.config.evaluate.prompts})}
    )
    bench = Bench.open(ctx.root, config)
    ctx.tracker.log_dataset("corpus", bench.corpus.hash, layout.CORPUS, "evaluation")
    ctx.tracker.log_dataset("model", tree_hash(ctx.root / layout.MODEL), layout.MODEL)
    ctx.tracker.begin()
    baselines = make_baselines(bench)
    if baselines.judge is None:
        raise ModelError(f"evaluate: expected the default corpus, got one that cannot be judged: {bench.reason}")
    looks = baselines.gallery.looks(bench.candidates)
    real = bench.real_accuracy(looks.entity, looks)
    refuse_blunt_ruler(real, config.score.min_real_accuracy)
    refuse_seen(read_card(ctx.root / layout.MODEL), bench.corpus, layout.MODEL)
    variants = dict(baselines.variants) | drawn_variants(ctx.root, bench)
    both = two_entities.measure(ctx.root, bench, bench.prototypes(looks.entity))
    verdicts = {name: baselines.judge.verdicts(variant.looks, variant.rows) for name, variant in variants.items()}
    report = bench.report(variants, verdicts) | {
        "model_hash": tree_hash(ctx.root / layout.MODEL),
        "chance": baselines.judge.chance,
        "real_test": real,
        "by_drawings": by_drawings(bench, verdicts),
        "curves": Curves(root=ctx.root, config=ctx.config).measure(),
        "by_training_step": by_training_step(read_card(ctx.root / layout.MODEL)),
        "by_placement": _by_placement(ctx.root, bench),
        "two_entities": both.report,
    }
    report["aims"] = aims(report)
    report["verdict"] = verdict(report["differences"])
    page = evaluation_page(bench, baselines.judge, variants, verdicts, both.rows)
    write_evaluation(ctx.root / layout.EVALUATED, report, page)
    _track(ctx, report)


def _by_placement(root: Path, bench: Bench) -> dict[str, float]:
    """The shift and scale curve on validation pairs: loss at t = 950 minus that without neighbors."""
    generator = load_generator(root / layout.MODEL, choose_device(bench.config.device))
    lists, count = bench.table.validation, bench.config.retrieval.content
    probe = make_probe(generator, bench.corpus, lists, count, bench.config.evaluate.curve_prompts, bench.config.seed)
    return placement_curve(generator, probe)


def _track(ctx: StageContext, report: Mapping[str, Any]) -> None:
    for name, row in report["variants"].items():
        ctx.tracker.log_metrics(
            {f"{name}.{key}": value["mean"] for key, value in row.items() if isinstance(value, dict)}
        )
    for path in sorted((ctx.root / layout.EVALUATED).rglob("*.*")):
        ctx.tracker.log_artifact(path)
    _LOG.info(report["verdict"])
    for name, aim in report["aims"].items():
        word = "reached" if aim["reached"] else "NOT reached"
        _LOG.info("%s: %.3f, aim %s: %s", name, aim["measured"], aim["aim"], word)
