"""One asset per stage of dvc.yaml: `dvc repro` of that stage.

Order, descriptions, versions, groups, kinds and pools come from DVC. No `from __future__ import annotations`: Dagster
looks at the annotation of `context` itself.
"""

import os
from pathlib import Path

import dagster as dg

from rag_diffusion.layout import KB
from rag_diffusion.orchestration.data_sets import DATA_SETS, PARTITIONS, encoder_stages
from rag_diffusion.orchestration.project import EXTERNAL, Project, Stage
from rag_diffusion.orchestration.reproduce import asset_key, reproduce

ROOT = Path(os.environ.get("RAG_DIFFUSION_ROOT", ""))  # orchestration/definitions.py of a project says it
PROJECT = Project.load(ROOT)
OWNER = "team:rag-diffusion"


def _stage_asset(stage: Stage, project: Project = PROJECT) -> dg.AssetsDefinition:
    """The asset of a `stage`, or of an item of a matrix, of `project`.

    Stages of one pool, as `gpu`, share its slots: `dagster instance concurrency set gpu 1` lets one of them at a time
    run, whatever starts them.
    """

    @dg.asset(
        key=asset_key(stage.name),
        deps=[asset_key(name) for name in (*stage.upstream, *stage.external)],
        description=stage.description,
        code_version=stage.code_version,
        kinds={"dvc", "mlflow"} | ({stage.kind} if stage.kind else set()),
        group_name=stage.family,
        owners=[OWNER],
        pool=stage.pool or None,
    )
    def made(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        return reproduce(context, project)

    return made


STAGE_ASSETS = [_stage_asset(stage) for stage in PROJECT.stages.values()]
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
DATA_SETS_ASSET = dg.AssetSpec(
    DATA_SETS,
    deps=[asset_key(name) for name in encoder_stages(PROJECT)],
    description="Data sets that were added by `rag-diffusion kb add`, a partition each, searched with the corpus by "
    "whoever draws by hand; no stage reads them. `rag-diffusion sync`, or a sensor, reports what has changed.",
    partitions_def=PARTITIONS,
    metadata={"path": dg.MetadataValue.path(str(ROOT / KB))},
    kinds={"parquet", "faiss"},
    group_name="knowledge_base",
    owners=[OWNER],
)
