"""Stage `sweep`, an item for each kind of guidance and number of neighbors: how well validation prompts are drawn.

`matrix` in dvc.yaml makes the items and names them `sweep@GUIDANCE-NEIGHBORS`; in MLflow those of one model are nested
in one run.
"""

from __future__ import annotations

import json
import logging

from rag_diffusion import layout
from rag_diffusion.errors import ModelError
from rag_diffusion.files import atomic_write, tree_hash
from rag_diffusion.metrics.validation_prompts import ValidationPrompts
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.training.card import read_card, refuse_seen

_LOG = logging.getLogger(__name__)


def report_of(item: str) -> str:
    """Path of the metrics file of an `item`, relative to the project."""
    return f"{layout.REPORTS}/sweep/{item}.json"


def run(ctx: StageContext) -> None:
    """Write reports/sweep/ITEM.json."""
    config, model = ctx.config, ctx.root / layout.MODEL
    content: dict[str, object] = {
        "guidance": config.sample.guidance,
        "num_neighbors": config.retrieval.content,
    }
    ctx.tracker.log_dataset("model", tree_hash(model), layout.MODEL)
    ctx.tracker.begin()
    try:
        prompts = ValidationPrompts.open(ctx.root, config, config.sweep.num_prompts)
    except ModelError as error:  # a corpus of the user's own
        _LOG.warning(error)
        content["reason"] = str(error)
    else:
        refuse_seen(read_card(model), prompts.bench.corpus, layout.MODEL)
        ctx.tracker.log_dataset("corpus", prompts.bench.corpus.hash, layout.CORPUS, "sampling")
        accuracies = prompts.accuracies(config)
        means = {name: interval["mean"] for name, interval in accuracies.items()}
        content |= {"num_prompts": len(prompts.prompts), **means}
        content |= {f"joint_{end}": accuracies["joint"][end] for end in ("low", "high")}
        ctx.tracker.log_metrics(means)
    atomic_write(ctx.root / report_of(ctx.item), json.dumps(content, indent=1) + "\n")
