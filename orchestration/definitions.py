"""What `dagster dev` loads: the stages of dvc.yaml as assets, with their checks, jobs, schedule and sensors.

`rag_diffusion.orchestration` makes them. Assets of your own join them here, a stage of your own in dvc.yaml:
`defs = dg.Definitions.merge(defs, dg.Definitions(assets=[...]))`.
"""

import os
from pathlib import Path

os.environ.setdefault("RAG_DIFFUSION_ROOT", str(Path(__file__).resolve().parents[1]))

from rag_diffusion.orchestration.definitions import defs

__all__ = ["defs"]
