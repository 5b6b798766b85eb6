"""Copy what a pipeline of its own has trained to the place in git where others read it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from rag_diffusion.errors import DataError, LineageError
from rag_diffusion.files import atomic_dir, atomic_write, tree_hash
from rag_diffusion.layout import (
    BASE,
    EVALUATED,
    EVALUATION,
    FRAMES,
    FRAMES_SCORES,
    FRAMES_TRAINED,
    PRETRAINED,
    PRETRAINED_SCORES,
    REPORTS,
    RULER,
    RULER_TRAINED,
    UPSAMPLER,
    UPSAMPLER_TRAINED,
)

CARD, RULER_CARD = "card.json", "ruler.json"
CHANGES, CLIP_SCORES = "changes.json", "clips.json"


def promote_base(root: Path | str = Path()) -> Path:
    """Make the result of pipelines/pretrain, its scores on its card, the base generator data/base of a project, `root`.

    Returns:
        The path of data/base.

    Raises:
        DataError: the result or its scores are missing.
        LineageError: the scores are those of other weights.
    """
    root = Path(root)
    source = _finished(root / PRETRAINED / CARD, "make base")
    scores = _scores_of(root / PRETRAINED_SCORES, source, "model_hash", "score_base", "make base")
    with atomic_dir(root / BASE) as new:
        shutil.copytree(source, new, dirs_exist_ok=True)
        card = json.loads((source / CARD).read_text(encoding="utf-8")) | {"scores": scores}
        (new / CARD).write_text(json.dumps(card, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return root / BASE


def promote_ruler(root: Path | str = Path()) -> Path:
    """Make the result of pipelines/ruler the ruler of a project, `root`; returns the path, data/ruler.

    Raises:
        DataError: there is no result.
    """
    root = Path(root)
    source = _finished(root / RULER_TRAINED / RULER_CARD, "make ruler")
    with atomic_dir(root / RULER) as new:
        shutil.copytree(source, new, dirs_exist_ok=True)
    return root / RULER


def promote_upsampler(root: Path | str = Path()) -> Path:
    """Make the result of pipelines/upsample in project `root` the stage data/upsampler. Returns that path."""
    root = Path(root)
    source = _finished(root / UPSAMPLER_TRAINED / CARD, "make upsampler")
    with atomic_dir(root / UPSAMPLER) as new:
        shutil.copytree(source, new, dirs_exist_ok=True)
    return root / UPSAMPLER


def promote_frames(root: Path | str = Path()) -> Path:
    """Make the result of pipelines/clips, its scores on its card, what draws a clip's next frame, data/frames.

    Args:
        root: of the project.

    Returns:
        The path of data/frames, which says how frames are drawn: as they were when they were measured.

    Raises:
        DataError: the result or its scores are missing.
        LineageError: the scores are those of other weights.
    """
    root = Path(root)
    source = _finished(root / FRAMES_TRAINED / CARD, "make frames")
    scores = _scores_of(root / FRAMES_SCORES / CLIP_SCORES, source, "changes_hash", "clips_score", "make frames")
    settings = scores["settings"]
    guidance = ("text_guidance_scale", "neighbor_guidance_scale")
    drawing = {
        "num_inference_steps": settings["num_inference_steps"],
        "guidance": {"mode": settings["guidance"]} | {name: settings[name] for name in guidance},
    }
    with atomic_dir(root / FRAMES) as new:
        shutil.copytree(source, new, dirs_exist_ok=True)
        for name, added in ((CARD, {"scores": scores}), (CHANGES, {"drawing": drawing})):
            content = json.loads((source / name).read_text(encoding="utf-8")) | added
            (new / name).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return root / FRAMES


def publish_evaluation(root: Path | str = Path()) -> Path:
    """Copy the result of pipelines/evaluate to reports/ of a project, `root`; returns the path of the report.

    Raises:
        DataError: there is no result.
    """
    root = Path(root)
    source = _finished(root / EVALUATED / EVALUATION, "rag-diffusion evaluate")
    for path in sorted(source.rglob("*.*")):
        atomic_write(root / REPORTS / path.relative_to(source), path.read_bytes())
    return root / REPORTS / EVALUATION


def _scores_of(path: Path, source: Path, key: str, stage: str, command: str) -> dict[str, Any]:
    """The scores of a result, which name its hash by a key."""
    if not path.is_file():
        raise DataError(f"{path}: expected the scores of the result, found none; make them with `{command}`")
    scores: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if scores[key] != tree_hash(source):
        place = source.relative_to(source.parents[2]).as_posix()
        raise LineageError(
            f"{path}: expected scores of the weights in {place}, got those of others; "
            f"make them with `python -m rag_diffusion run {stage}`"
        )
    return scores


def _finished(card: Path, command: str) -> Path:
    """The folder of a card; a result without one is not whole."""
    if not card.is_file():
        raise DataError(f"{card}: expected a finished result with its card, found none; make it with `{command}`")
    return card.parent
