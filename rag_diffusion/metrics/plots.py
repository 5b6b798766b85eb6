"""Accuracy of the variants as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

METRICS = {"joint": "#1b6e53", "entity": "#7fb8a4", "style": "#e0a458"}
WORDS = {
    "none": "no\nneighbors", "style": "style\nneighbors", "random": "random\nneighbors", "retrieved": "retrieved",
    "oracle": "oracle\nneighbors",
    "copied": "copied", "copied_best": "best of K\ncopied", "copied_snap": "copied +\npalette",
    "real_degraded": "real,\nnoised and\ndenoised", "real": "real",
}  # fmt: skip


def accuracy_plot(table: Mapping[str, Mapping[str, Any]], *, num_prompts: int) -> bytes:
    """Bars with intervals: joint, entity and style accuracy of every judged variant.

    Args:
        table: {variant: {metric: {"mean", "low", "high"}}}.
        num_prompts: shown in the title.

    Returns:
        PNG bytes; the same table gives the same bytes.
    """
    names = [name for name, metrics in table.items() if metrics.get("joint") is not None]
    figure = Figure(figsize=(max(5.0, 1.25 * len(names) + 1.5), 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    width = 0.8 / len(METRICS)
    for number, (metric, color) in enumerate(METRICS.items()):
        centers = [column + (number - 1) * width for column in range(len(names))]
        values = [table[name][metric] for name in names]
        means = [value["mean"] for value in values]
        below = [max(0.0, value["mean"] - value["low"]) for value in values]
        above = [max(0.0, value["high"] - value["mean"]) for value in values]
        axes.bar(
            centers, means, width * 0.92, color=color, label=metric, yerr=[below, above], ecolor="#444444", capsize=2
        )
        if metric == "joint":
            for center, value in zip(centers, values, strict=True):
                axes.text(center, value["high"] + 0.015, f"{value['mean']:.2f}", ha="center", va="bottom", fontsize=8)
    axes.set_xticks(range(len(names)), [WORDS.get(name, name) for name in names])
    axes.set_ylim(0, 1.08)
    axes.set_ylabel("share of images recognised")
    axes.set_title(f"Unseen entities, {num_prompts} prompts, 95 % intervals", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, ncols=3, loc="upper left", bbox_to_anchor=(0, 1.0))
    return _png(figure)


def curves_plot(
    curves: Mapping[str, Mapping[str, Mapping[str, float]]],
    *,
    xlabel: str,
    title: str,
    ylabel: str = "share of images recognised",
) -> bytes:
    """Points with intervals, joined by lines where x is a number.

    Args:
        curves: {name of the line: {x, as text: {"mean", "low", "high"}}}; the x are numbers or words, in their order.
        xlabel: what x is.
        title: on top.
        ylabel: what the points are; below zero where one of them is.

    Returns:
        PNG bytes; the same curves give the same bytes.
    """
    figure = Figure(figsize=(6.4, 4.0), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = list(dict.fromkeys(x for points in curves.values() for x in points))
    line = "solid" if all(_is_number(x) for x in names) else "none"
    for number, (name, points) in enumerate(curves.items()):
        centers = [names.index(x) + 0.06 * (number - (len(curves) - 1) / 2) for x in points]
        means = [point["mean"] for point in points.values()]
        below = [max(0.0, point["mean"] - point["low"]) for point in points.values()]
        above = [max(0.0, point["high"] - point["mean"]) for point in points.values()]
        axes.errorbar(centers, means, yerr=[below, above], marker="o", capsize=3, ls=line, lw=1.4, label=name)
    axes.set_xticks(range(len(names)), names, rotation=45 if len(names) > 8 else 0)
    if all(point["low"] >= 0 for points in curves.values() for point in points.values()):
        axes.set_ylim(bottom=0)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(title, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.legend(frameon=False, fontsize=9)
    return _png(figure)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def as_image(content: bytes) -> Image.Image:
    """PNG bytes, `content`, as an RGB image for a tracker."""
    return Image.open(io.BytesIO(content)).convert("RGB")
