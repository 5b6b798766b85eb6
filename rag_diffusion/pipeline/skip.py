"""Items of a sweep over a corpus that cannot be judged: skipped before anything is loaded, and told once."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from rag_diffusion import layout
from rag_diffusion.files import atomic_write

_LOG = logging.getLogger(__name__)

_REASON = (
    "the sweep is skipped: its items are compared by the ruler, which knows the styles and entities of the default "
    "corpus, not those of a user's own"
)


def why_skipped(stage: str, root: Path) -> str:
    """Why `stage` has nothing to do in the project at `root`; empty where it has."""
    return _REASON if stage == "sweep" and _manifest(root).get("kind", "iconify") != "iconify" else ""


def write_skip(stage: str, item: str, root: Path, reason: str) -> None:
    """Write the report of a skipped item; the reason is logged once for all items of a corpus.

    Args:
        stage: name of the stage.
        item: of its matrix.
        root: the project.
        reason: as `why_skipped` says.
    """
    folder = root / layout.REPORTS / stage
    content = {"reason": reason, "corpus_hash": _manifest(root).get("hash", "")}
    before = [_read(path) for path in sorted(folder.glob("*.json"))]
    _LOG.warning(f"{stage}@{item}: skipped" if content in before else reason)
    atomic_write(folder / f"{item}.json", json.dumps(content, indent=1) + "\n")


def _manifest(root: Path) -> dict[str, Any]:
    return _read(root / layout.CORPUS / "manifest.json")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
