"""Stages that belong together: a group of assets in Dagster, an experiment in MLflow."""

from __future__ import annotations

FAMILIES = {
    "knowledge_base": ("ingest", "align", "embed", "index", "neighbors"),
    "generator": ("pretrain", "finetune", "sample", "score_base"),
    "evaluation": ("ruler", "baselines", "score", "evaluate"),
    "sweep": ("sweep",),
}


def family_of(stage: str) -> str:
    """The family of a stage, which may be an item of a matrix, as `sweep@joint-3`; `pipeline` for one of the user's."""
    base = stage.split("@")[0]
    return next((family for family, stages in FAMILIES.items() if base in stages), "pipeline")
