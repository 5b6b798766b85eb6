"""Stage `sample`: the fixed prompts, the same noise for every variant, contact sheets and provenance."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from rag_diffusion import layout
from rag_diffusion.arrays import Ints
from rag_diffusion.corpus.prompts import load_prompts
from rag_diffusion.files import atomic_dir, tree_hash
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.retrieval.controls import answered, shown_to, why_without
from rag_diffusion.retrieval.leaks import check_exclusions
from rag_diffusion.retrieval.neighbor_table import NeighborTable
from rag_diffusion.sampling.drawing import Asked, VariantSampler
from rag_diffusion.sampling.samples import Sample, Samples, sample_metrics, sample_sheets, write_samples
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.training.card import read_card, refuse_seen
from rag_diffusion.types import Prompt

_LOG = logging.getLogger(__name__)

_TRACED = 40  # samples that MLflow shows with query, hits and times


def run(ctx: StageContext) -> None:
    """Write data/samples and reports/sheets."""
    corpus = Corpus.open(ctx.root / layout.CORPUS)
    prompts = load_prompts(ctx.root, ctx.config.sample.prompts, corpus)
    table = NeighborTable.open(ctx.root / layout.NEIGHBORS, corpus)
    answers: dict[str, Ints] = {
        variant: answered(variant, prompts, table.prompts) for variant in ctx.config.sample.variants
    }
    check_exclusions(table, corpus, prompts)
    if ctx.config.retrieval.schedule.query_again:
        _LOG.warning("retrieval.schedule.query_again has no effect here: the neighbors of the prompts are a table")
    model = ctx.root / layout.MODEL
    refuse_seen(read_card(model), corpus, layout.MODEL)
    ctx.tracker.log_dataset("corpus", corpus.hash, layout.CORPUS, "sampling")
    ctx.tracker.log_dataset("model", tree_hash(model), layout.MODEL)
    ctx.tracker.begin()
    drawing = VariantSampler(root=ctx.root, model=model, config=ctx.config, corpus=corpus, table=table)
    drawn = _drawn(drawing, prompts, {variant: rows for variant, rows in answers.items() if len(rows)})
    ctx.tracker.log_traces([trace for trace in drawing.traces if trace.inputs["variant"] == "retrieved"][:_TRACED])
    ctx.tracker.log_metrics(sample_metrics(drawn, len(prompts)))
    stamp = {"corpus_hash": corpus.hash, "model_hash": tree_hash(model)} | _missing(prompts, answers)
    for variant, reason in stamp["absent"].items():
        _LOG.warning("%s: not drawn for any prompt: %s", variant, reason)
    write_samples(ctx.root / layout.SAMPLES, prompts, drawn, stamp)
    _write_sheets(ctx, corpus, prompts, drawn, table)


def _drawn(drawing: VariantSampler, prompts: Sequence[Prompt], answers: Mapping[str, Ints]) -> Samples:
    asked = [Asked(variant=variant, prompts=[prompts[row] for row in rows]) for variant, rows in answers.items()]
    first = drawing.draw_all(asked)
    last = drawing.enlarge_all(asked, first)
    return {
        one.variant: {
            prompt.prompt_id: Sample(pixels=pixels, provenance=origin, first_stage=None if last is None else small)
            for prompt, pixels, origin, small in zip(
                one.prompts, finished.pixels, finished.provenance, begun.pixels, strict=True
            )
        }
        for one, begun, finished in zip(asked, first, last or first, strict=True)
    }


def _missing(prompts: Sequence[Prompt], answers: Mapping[str, Ints]) -> dict[str, Any]:
    """Variants that cannot be and why, and the prompts that the others have no neighbors for."""
    absent = {variant: why_without(variant) for variant, rows in answers.items() if not len(rows)}
    without = {
        variant: [prompts[row].prompt_id for row in sorted(set(range(len(prompts))) - set(rows.tolist()))]
        for variant, rows in answers.items()
        if variant not in absent
    }
    return {"absent": absent, "without": {variant: names for variant, names in without.items() if names}}


def _write_sheets(
    ctx: StageContext, corpus: Corpus, prompts: Sequence[Prompt], drawn: Samples, table: NeighborTable
) -> None:
    lists = {variant: [shown_to(variant, table.prompts[prompt.prompt_id]) for prompt in prompts] for variant in drawn}
    with atomic_dir(ctx.root / layout.REPORTS / "sheets") as beside:
        for name, sheet in sample_sheets(corpus, prompts, drawn, lists, table).items():
            sheet.save(beside / f"{name}.png")
            ctx.tracker.log_image(sheet, f"sheets/{name}", step=0)  # MLflow compares pictures that have a step
    rows = [
        {"prompt": prompt.text, "variant": variant, "neighbors": ", ".join(names)}
        for variant, chosen in lists.items()
        for prompt, names in zip(prompts, chosen, strict=True)
    ]
    ctx.tracker.log_table(rows, "neighbors")
