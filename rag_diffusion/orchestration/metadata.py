"""What a materialization shows in Dagster: where the outs are, MLflow run, numbers, pictures."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from PIL import Image

from rag_diffusion.layout import RUNS
from rag_diffusion.orchestration.project import EXTERNAL, Stage
from rag_diffusion.runs import not_in_store

_PICTURE_WIDTH = 900  # pixels; the event log keeps every picture
_PICTURES_SHOWN = 8
MLFLOW_PAGE = "RAG_DIFFUSION_MLFLOW"  # set by `make ui`, e.g. http://127.0.0.1:5000


def stage_metadata(root: Path, stage: Stage) -> dict[str, Any]:
    """Metadata of a `stage` of the project at `root`, whose outs are up to date."""
    metadata: dict[str, Any] = {out: dg.MetadataValue.path(str(root / out)) for out in stage.outs}
    metadata |= _mlflow(root, root / RUNS / f"{stage.name}.run.json")
    for path in stage.metrics:
        metadata |= numbers(json.loads((root / path).read_text(encoding="utf-8")))
    for picture in _pictures(root, stage):
        try:
            metadata[picture.stem] = dg.MetadataValue.md(embedded(picture))
        except OSError as error:  # the stage has done its work; its picture is told as broken
            metadata[picture.stem] = f"cannot be shown: {error}"
    return metadata


def card_metadata(root: Path, name: str) -> dict[str, Any]:
    """The card of the external asset `name` of the project at `root`: its numbers, and where it is."""
    folder = root / EXTERNAL[name]
    metadata: dict[str, Any] = {"path": dg.MetadataValue.path(str(folder))}
    for path in sorted(folder.glob("*.json")):
        card = json.loads(path.read_text(encoding="utf-8"))
        plain = {key: value for key, value in card.items() if isinstance(value, str | int | float)}
        metadata |= plain | numbers(card.get("scores", {}), "scores/")
    return metadata


def numbers(report: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a `report` by path, which begins with `prefix`; of an interval only its mean.

    Dagster plots each over the materializations.
    """
    by_path: dict[str, float] = {}
    for key, value in report.items():
        name = f"{prefix}{key}".removeprefix("variants/")
        if isinstance(value, Mapping) and "mean" in value:
            value = value["mean"]
        if isinstance(value, Mapping):
            by_path |= numbers(value, f"{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            by_path[name] = float(value)
    return by_path


def embedded(picture: Path) -> str:
    """The file `picture` as Markdown that carries its own bytes, at most `_PICTURE_WIDTH` wide."""
    with Image.open(picture) as opened:
        image = opened.convert("RGB")
        image.thumbnail((_PICTURE_WIDTH, 4 * _PICTURE_WIDTH))
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=85)
    return f"![{picture.stem}](data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()})"


def _mlflow(root: Path, record: Path) -> dict[str, Any]:
    """The run that made the outs. After a restore from DVC's cache this store may not have it."""
    if not record.is_file():
        return {}
    content = json.loads(record.read_text(encoding="utf-8"))
    if not content.get("run_id"):
        return {"mlflow_run": f"not tracked: {content.get('tracking_error', 'unknown reason')}"}
    metadata: dict[str, Any] = {"mlflow_run": content["run_id"]}
    if missing := not_in_store(root, content["run_id"]):
        metadata["mlflow_store"] = missing
    elif page := os.environ.get(MLFLOW_PAGE):
        metadata["mlflow"] = dg.MetadataValue.url(f"{page}/#/runs/{content['run_id']}")
    return metadata


def _pictures(root: Path, stage: Stage) -> Iterator[Path]:
    """Pictures among the reports that a stage makes."""
    reports = [root / out for out in stage.outs if out.startswith("reports/")]
    pictures = [p for out in reports for p in (sorted(out.rglob("*.png")) if out.is_dir() else [out])]
    yield from [p for p in pictures if p.suffix == ".png" and p.is_file()][:_PICTURES_SHOWN]
