"""What every stage gets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rag_diffusion.config import Config
from rag_diffusion.tracking import Tracker


@dataclass(frozen=True, kw_only=True)
class StageContext:
    """Parameters, project root and tracker of one stage run; for an item of a matrix, its name."""

    config: Config
    root: Path
    tracker: Tracker
    item: str = ""
