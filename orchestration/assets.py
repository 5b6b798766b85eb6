"""One asset per stage of dvc.yaml: `dvc repro` of that stage.

Order, descriptions and versions come from DVC. No `from __future__ import annotations`: Dagster
looks at the annotation of `context` itself.
"""

import os
from collections.abc import Callable
from pathlib import Path

import dagster as dg

from orchestration.project import EXTERNAL, Project
from orchestration.reproduce import asset_key, reproduce
from rag_diffusion.families import family_of

ROOT = Path(os.environ.get("RAG_DIFFUSION_ROOT", Path(__file__).parent.parent))
PROJECT = Project.load(ROOT)

Context = dg.AssetExecutionContext
Result = dg.MaterializeResult[None]

OWNER = "team:rag-diffusion"
KINDS = {
    "ingest": "parquet", "align": "pytorch", "embed": "pytorch", "index": "faiss", "neighbors": "parquet",
    "baselines": "pytorch", "finetune": "pytorch", "sample": "pytorch", "score": "pytorch", "sweep": "pytorch",
}  # fmt: skip
GPU_STAGES = ("finetune", "sample", "sweep")
GPU_POOL = "gpu"  # `dagster instance concurrency set gpu 1`: one of them at a time, whatever runs


def stage_asset(
    function: Callable[[Context], Result], name: str | None = None, project: Project = PROJECT
) -> dg.AssetsDefinition:
    """Make the asset of a stage: of the one that a function is named after, or of an item of a matrix."""
    stage = project.stages[name or function.__name__]
    base = stage.name.split("@")[0]
    define = dg.asset(
        key=asset_key(stage.name),
        deps=[asset_key(name) for name in (*stage.upstream, *stage.external)],
        description=stage.description,
        code_version=stage.code_version,
        kinds={"dvc", "mlflow"} | ({KINDS[base]} if base in KINDS else set()),
        group_name=family_of(stage.name),
        owners=[OWNER],
        pool=GPU_POOL if base in GPU_STAGES else None,
    )
    return define(function)


@stage_asset
def ingest(context: Context) -> Result:
    """The corpus: pairs of image and caption, split by family."""
    return reproduce(context, PROJECT)


@stage_asset
def align(context: Context) -> Result:
    """The dual encoder that retrieves."""
    return reproduce(context, PROJECT)


@stage_asset
def embed(context: Context) -> Result:
    """Vectors of every pair."""
    return reproduce(context, PROJECT)


@stage_asset
def index(context: Context) -> Result:
    """The index over the vectors and the captions."""
    return reproduce(context, PROJECT)


@stage_asset
def neighbors(context: Context) -> Result:
    """Neighbors of every training pair and prompt."""
    return reproduce(context, PROJECT)


@stage_asset
def baselines(context: Context) -> Result:
    """Scores of everything that needs no generator."""
    return reproduce(context, PROJECT)


@stage_asset
def finetune(context: Context) -> Result:
    """The generator, fine-tuned on the corpus."""
    return reproduce(context, PROJECT)


@stage_asset
def sample(context: Context) -> Result:
    """Images of the fixed prompts, by variant."""
    return reproduce(context, PROJECT)


@stage_asset
def score(context: Context) -> Result:
    """The table that compares the variants."""
    return reproduce(context, PROJECT)


def sweep(context: Context) -> Result:
    """Validation prompts with one setting of the sweep."""
    return reproduce(context, PROJECT)


SWEEP = [stage_asset(sweep, name) for name in PROJECT.stages if name.startswith("sweep@")]
STAGE_ASSETS = [ingest, align, embed, index, neighbors, baselines, finetune, sample, score, *SWEEP]
EXTERNAL_ASSETS = [
    dg.AssetSpec(
        name,
        description=f"Tracked by git; made by `make {name}`.",
        metadata={"path": dg.MetadataValue.path(str(ROOT / path))},
        kinds={"git"},
        group_name="external",
        owners=[OWNER],
    )
    for name, path in EXTERNAL.items()
]
