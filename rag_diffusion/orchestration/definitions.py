"""What `dagster dev` loads."""

from __future__ import annotations

import dagster as dg

from rag_diffusion.orchestration.assets import DATA_SETS_ASSET, EXTERNAL_ASSETS, STAGE_ASSETS
from rag_diffusion.orchestration.checks import asset_checks
from rag_diffusion.orchestration.sensors import dvc_results, every_night, new_data, pipeline
from rag_diffusion.orchestration.smoke import smoke

# One process, one stage after the other: a stage uses every core, and a process for each step
# costs 5 to 10 s.
defs = dg.Definitions(
    assets=[*STAGE_ASSETS, *EXTERNAL_ASSETS, DATA_SETS_ASSET],
    asset_checks=asset_checks(),
    jobs=[pipeline, smoke],
    schedules=[every_night],
    sensors=[dvc_results, new_data],
    executor=dg.in_process_executor,
)
