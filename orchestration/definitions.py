"""What `dagster dev` loads."""

from __future__ import annotations

import dagster as dg

from orchestration.assets import EXTERNAL_ASSETS, STAGE_ASSETS

pipeline = dg.define_asset_job("pipeline", selection=dg.AssetSelection.assets(*STAGE_ASSETS))

# One process, one stage after the other: a stage uses every core, and a process for each step
# costs 5 to 10 s.
defs = dg.Definitions(assets=[*STAGE_ASSETS, *EXTERNAL_ASSETS], jobs=[pipeline], executor=dg.in_process_executor)
