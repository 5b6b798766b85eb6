"""Stage `baselines`: the ruler on real images and on every variant that needs no generator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from rag_diffusion import layout
from rag_diffusion.corpus.prompts import load_prompts
from rag_diffusion.corpus.store import Corpus
from rag_diffusion.files import atomic_dir, atomic_write
from rag_diffusion.metrics.archive import Archive, write_archive
from rag_diffusion.metrics.bootstrap import ClusterBootstrap
from rag_diffusion.metrics.extractors import make_extractor
from rag_diffusion.metrics.judge import Judge, Verdicts, hidden_styles, why_not_judged
from rag_diffusion.metrics.report import (
    accuracy_table,
    by_kind,
    distance_table,
    flat_metrics,
    flat_rows,
    merge,
    unjudged_table,
)
from rag_diffusion.metrics.ruler.entity import Prototypes
from rag_diffusion.metrics.ruler.store import Ruler, load_ruler
from rag_diffusion.metrics.ruler.trunk import Trunk
from rag_diffusion.metrics.scoring import candidate_rows, variant_features
from rag_diffusion.metrics.variants import Gallery, Variant, best_copies, neighbor_rows, real_rows, snapped
from rag_diffusion.retrieval.leaks import check_exclusions
from rag_diffusion.retrieval.neighbors import NeighborTable
from rag_diffusion.stages.context import StageContext
from rag_diffusion.types import Prompt

MAX_COPIED_JOINT = 0.10  # a ruler that gives more to a copied neighbor does not see its style

REPORT = f"{layout.REPORTS}/baselines.json"


def run(ctx: StageContext) -> None:
    """Write data/baselines and reports/baselines.json.

    Raises:
        LineageError: prompts, neighbors and corpus do not belong together, or a target is among the neighbors.
        ModelError: the ruler is damaged or has seen an entity, or the extractor cannot be had.
    """
    corpus = Corpus.open(ctx.root / layout.CORPUS)
    prompts = load_prompts(ctx.root, ctx.config.sample.prompts, corpus)
    table = NeighborTable.open(ctx.root / layout.NEIGHBORS, corpus)
    check_exclusions(table, corpus, prompts)
    ruler, trunk = load_ruler(ctx.root / layout.RULER), Trunk()
    extractor = make_extractor(ctx.config.score, trunk)
    reason = why_not_judged(corpus, prompts, ruler)
    real, neighbors = real_rows(corpus, prompts), neighbor_rows(corpus, prompts, table.prompts)
    candidates = candidate_rows(corpus, prompts)
    gallery = Gallery(corpus, ruler, trunk, np.concatenate([candidates, real, neighbors.ravel()]))
    variants = {"real": gallery.variant(real), "copied": gallery.variant(neighbors[:, 0])}
    verdicts: dict[str, Verdicts] = {}
    checks: dict[str, Any] = {}
    features = gallery.looks(candidates).entity
    if reason is None:
        own = corpus.table.iloc[candidates]
        prototypes = Prototypes(features, own["entity"].tolist(), own["style"].tolist())
        judge = Judge(ruler, prompts, prototypes, [hidden_styles(p, table.prompts[p.prompt_id], corpus) for p in prompts])
        variants["copied_best"] = gallery.variant(best_copies(gallery, neighbors, judge))
        variants["copied_snap"] = _snapped(ctx, corpus, ruler, trunk, prompts, variants["copied"])
        verdicts = {name: judge.verdicts(variant.looks) for name, variant in variants.items()}
        checks = _checks(judge, variants, verdicts)
    bootstrap = ClusterBootstrap([p.entity for p in prompts], draws=ctx.config.score.bootstrap_draws, seed=ctx.config.seed)
    accuracies = accuracy_table(verdicts, bootstrap) if reason is None else unjudged_table(list(variants), reason)
    distances = distance_table(variant_features(variants, extractor), extractor.frechet_name, bootstrap)
    report = {
        "variants": merge(accuracies, {name: distances[name] for name in accuracies}),
        "num_prompts": len(prompts),
        "extractor": extractor.name,
        "corpus_hash": corpus.hash,
        "ruler_sha256": ruler.sha256,
        "reason": reason,
    } | checks
    if reason is None:
        report["by_kind"] = by_kind(verdicts, prompts, draws=ctx.config.score.bootstrap_draws, seed=ctx.config.seed)
    with atomic_dir(ctx.root / layout.BASELINES) as folder:
        write_archive(folder, prompts=prompts, archive=Archive(variants=variants, prototypes=features), verdicts=verdicts,
                      stamp={"corpus_hash": corpus.hash, "ruler_sha256": ruler.sha256})  # fmt: skip
    atomic_write(ctx.root / REPORT, json.dumps(report, indent=1) + "\n")
