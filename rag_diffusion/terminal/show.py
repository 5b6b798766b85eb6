"""Where the results of the pipeline are, and the metric table as text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rag_diffusion.errors import DataError
from rag_diffusion.layout import REPORTS

FIRST_COLUMNS = ("joint", "entity", "style")
METRICS = f"{REPORTS}/metrics.json"
BASELINES = f"{REPORTS}/baselines.json"
SHEETS = f"{REPORTS}/sheets"


def summary(root: Path | str = Path()) -> str:
    """The metric table and the paths of pictures and numbers.

    Args:
        root: the project's root.

    Raises:
        DataError: nothing has been scored yet, or the metric file is damaged.
    """
    root = Path(root).resolve()
    path = root / METRICS if (root / METRICS).is_file() else root / BASELINES
    content = _content(path)
    parts = [table(content["variants"])]
    parts.append("\n".join(f"note      {sentence}" for sentence in _notes(content)))
    parts.append(f"metrics   {path}")
    sheets = sorted((root / SHEETS).rglob("*.png"))
    parts.append("\n".join(f"{'pictures' if i == 0 else '':9} {sheet}" for i, sheet in enumerate(sheets)))
    if path.name == Path(BASELINES).name:
        parts.append("Only the baselines are there so far; `dvc repro` makes the rest.")
    parts.append("runs      `make ui` opens MLflow and Dagster")
    return "\n\n".join(part for part in parts if part)


def table(variants: Mapping[str, Mapping[str, object]]) -> str:
    """Variants by metric as aligned text; an interval is shown as `mean [low, high]`.

    Args:
        variants: {variant: {metric: number or {"mean", "low", "high"}}}.
    """
    names = list(dict.fromkeys(name for metrics in variants.values() for name in metrics))
    names = [n for n in FIRST_COLUMNS if n in names] + [n for n in names if n not in FIRST_COLUMNS]
    names = [n for n in names if any(_cell(metrics.get(n)) for metrics in variants.values())]
    rows = [["variant", *names]]
    rows += [[variant, *(_cell(metrics.get(name)) for name in names)] for variant, metrics in variants.items()]
    return _aligned(rows)


def _notes(content: Mapping[str, Any]) -> list[str]:
    """What the table does not show, and why."""
    return [*content.get("notes", ()), *([f"not judged: {content['reason']}"] if content.get("reason") else ())]


def _content(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: expected scores, found none; make them with `make demo` or `dvc repro`") from None
    except ValueError as error:
        raise DataError(f"{path}: expected JSON, got text that does not parse ({error}); run `dvc repro`") from None
    variants = content.get("variants") if isinstance(content, dict) else None
    if not isinstance(variants, dict) or not all(isinstance(metrics, dict) for metrics in variants.values()):
        raise DataError(f'{path}: expected {{"variants": {{name: metrics}}}}, got otherwise; run `dvc repro`')
    return dict(content)


def _cell(value: object) -> str:
    if isinstance(value, Mapping) and "mean" in value:
        interval = f" [{_number(value['low'])}, {_number(value['high'])}]" if {"low", "high"} <= set(value) else ""
        return _number(value["mean"]) + interval
    return _number(value)


def _number(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    if isinstance(value, int):
        return str(value)
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
