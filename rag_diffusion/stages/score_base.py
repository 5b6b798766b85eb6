"""Stage `score_base` (pipelines/pretrain): what a new base generator can do, on validation entities alone."""

from __future__ import annotations

import json
import logging

import numpy as np

from rag_diffusion import layout
from rag_diffusion.errors import ModelError
from rag_diffusion.files import atomic_write, tree_hash
from rag_diffusion.metrics.report import accuracy_table, differences
from rag_diffusion.metrics.scoring import Bench
from rag_diffusion.metrics.variants import Gallery, real_rows
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.retrieval.controls import answered
from rag_diffusion.sampling.drawing import VariantSampler
from rag_diffusion.training.card import read_card, refuse_seen

_LOG = logging.getLogger(__name__)

VARIANTS = ("none", "random", "retrieved")


def run(ctx: StageContext) -> None:
    """Write pipelines/pretrain/scores.json, which `rag-diffusion base promote` puts into the card.

    Raises:
        ModelError: there is no base, or the corpus is not one that the ruler can judge.
        LineageError: the base has seen a held-out entity.
    """
    sample = ctx.config.sample.model_copy(update={"prompts": "validation"})
    config = ctx.config.model_copy(update={"sample": sample})
    bench = Bench.open(ctx.root, config)
    if bench.reason is not None:
        raise ModelError(f"score_base: expected the default corpus, got one that cannot be judged: {bench.reason}")
    asked, bench = len(bench.prompts), bench.with_prototypes()
    model = ctx.root / layout.PRETRAINED
    refuse_seen(read_card(model), bench.corpus, layout.PRETRAINED)
    real = real_rows(bench.corpus, bench.prompts)
    gallery = Gallery(bench.corpus, bench.ruler, bench.trunk, np.concatenate([bench.candidates, real]))
    judge = bench.judge(gallery.looks(bench.candidates).entity)
    drawing = VariantSampler(root=ctx.root, model=model, config=config, corpus=bench.corpus, table=bench.table)
    verdicts = {"real": judge.verdicts(gallery.looks(real))}
    for name in VARIANTS:
        rows = answered(name, bench.prompts, bench.table.prompts)
        pixels = drawing.draw(name, [bench.prompts[row] for row in rows]).pixels
        verdicts[name] = judge.verdicts(bench.ruler.look(bench.trunk, pixels, desc=f"look at drawings, {name}"), rows)
    table = accuracy_table(verdicts, bench.bootstrap)
    scores = {
        "model_hash": tree_hash(model),
        "prompts": "validation",
        "num_prompts": len(bench.prompts),
        "num_left_out": asked - len(bench.prompts),
        "sample": sample.model_dump(exclude={"prompts", "variants", "batch_size"}),
        "ruler_sha256": bench.ruler.sha256,
        "variants": table,
        "differences": differences(verdicts, bench.bootstrap),
    }
    atomic_write(ctx.root / layout.PRETRAINED_SCORES, json.dumps(scores, indent=1) + "\n")
    for name, row in table.items():
        values = {metric: interval["mean"] for metric, interval in row.items()}
        ctx.tracker.log_metrics({f"{name}.{metric}": value for metric, value in values.items()})
        _LOG.info("%-10s %s", name, "  ".join(f"{metric} {value:.3f}" for metric, value in values.items()))
