"""Drawings of the full protocol as variants; accuracies by what can be retrieved, and by the length of training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rag_diffusion import layout
from rag_diffusion.metrics.judge import METRICS, Verdicts
from rag_diffusion.metrics.scoring import Bench
from rag_diffusion.metrics.variants import Variant, real_rows
from rag_diffusion.retrieval.controls import answered
from rag_diffusion.sampling.drawing import DEGRADED, Asked, VariantSampler

DRAWN = ("none", "random", "retrieved", "oracle")

_MANY = 7  # drawings of an entity in the knowledge base


def drawn_variants(root: Path, bench: Bench) -> dict[str, Variant]:
    """Every variant that the model in data/model draws, looked at by the ruler.

    Args:
        root: the project.
        bench: of the prompts.

    Returns:
        By name, without those that no prompt has neighbors for.
    """
    drawing = VariantSampler(
        root=root, model=root / layout.MODEL, config=bench.config, corpus=bench.corpus, table=bench.table
    )
    real = bench.corpus.pixels(real_rows(bench.corpus, bench.prompts))
    strength = bench.config.evaluate.degraded_strength
    answers = {name: answered(name, bench.prompts, bench.table.prompts) for name in (*DRAWN, DEGRADED)}
    answers = {name: rows for name, rows in answers.items() if len(rows)}
    asked = [
        Asked(
            variant=name,
            prompts=[bench.prompts[row] for row in rows],
            pictures=real[rows] if name == DEGRADED else None,
            strength=strength,
        )
        for name, rows in answers.items()
    ]
    variants = {}
    for (name, rows), drawn in zip(answers.items(), drawing.draw_all(asked), strict=True):
        looks = bench.ruler.look(bench.trunk, drawn.pixels, desc=f"look at drawings, {name}")
        variants[name] = Variant(pixels=drawn.pixels, looks=looks, pair_ids=("",) * len(drawn.pixels), rows=rows)
    return variants


def by_drawings(bench: Bench, verdicts: Mapping[str, Verdicts]) -> dict[str, Any]:
    """Accuracy with retrieved neighbors by the number of drawings of the entity that may be retrieved.

    Args:
        bench: of the run.
        verdicts: by variant, `retrieved` among them.

    Returns:
        {number of drawings, `7 or more` the last: {"num_prompts", metric: interval}}.
    """
    table = bench.corpus.table
    entity = dict(zip(table["pair_id"], table["entity"], strict=True))
    total = table["entity"].value_counts()
    counts = []
    for prompt in bench.prompts:
        hidden = sum(entity[name] == prompt.entity for name in bench.table.prompts[prompt.prompt_id].exclude)
        counts.append(int(total[prompt.entity]) - hidden)
    answers = verdicts["retrieved"].answers
    num_drawings = np.minimum(counts, _MANY)[answers]
    report: dict[str, Any] = {}
    for count in sorted(set(num_drawings.tolist())):
        rows = answers[num_drawings == count]
        bootstrap = bench.bootstrap_of([bench.prompts[row] for row in rows])
        name = f"{count} or more" if count == _MANY else str(count)
        report[name] = {"num_prompts": len(rows)} | {
            metric: bootstrap.interval(verdicts["retrieved"].at(rows, metric)).as_dict()
            for metric in ("joint", "entity", "style")
        }
    return report


def by_training_step(card: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """{steps since the start of the base: scores on validation prompts}, of the runs with `score_every` in `card`."""
    base = card.get("base") or {}
    rows = [(int(row["step"]), row) for row in base.get("neighbor_gain", ())]
    rows += [(int(base.get("steps", 0)) + int(row["step"]), row) for row in card.get("neighbor_gain", ())]
    return {str(step): {name: row[name] for name in METRICS} for step, row in rows if METRICS[0] in row}
