"""The result of the full protocol as files: report, page of pictures, plots."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rag_diffusion import layout
from rag_diffusion.files import atomic_dir
from rag_diffusion.metrics.judge import Judge, Verdicts
from rag_diffusion.metrics.page import Cell, PageRow, picture_page, ranks
from rag_diffusion.metrics.plots import accuracy_plot, curves_plot
from rag_diffusion.metrics.report import as_csv, in_order
from rag_diffusion.metrics.scoring import Bench
from rag_diffusion.metrics.variants import Variant

PAGE = "faithfulness.html"


def evaluation_page(
    bench: Bench,
    judge: Judge,
    variants: Mapping[str, Variant],
    verdicts: Mapping[str, Verdicts],
    two_entities: list[PageRow],
) -> str:
    """Best, median and worst retrieved drawings, and the best of two entities, as HTML.

    Args:
        bench: of the run.
        judge: of its prompts.
        variants: images by name, `retrieved` among them.
        verdicts: on them.
        two_entities: rows of `metrics.two_entities`.
    """
    at = {name: {int(row): number for number, row in enumerate(one.answers)} for name, one in variants.items()}
    drawn = variants["retrieved"]
    order = drawn.answers[ranks(judge.margins(drawn.looks, drawn.rows))]
    count = min(bench.config.evaluate.shown, len(order) // 3)
    middle = (len(order) - count) // 2
    chosen = {"best": order[:count], "median": order[middle : middle + count], "worst": order[-count:]}
    words = bench.corpus.manifest["style_words"]

    def row(number: int) -> PageRow:
        prompt = bench.prompts[number]
        retrieved = bench.table.prompts[prompt.prompt_id].retrieved
        return PageRow(
            prompt=prompt.text,
            target=f"{prompt.title}, {words[prompt.style]}",
            neighbors=bench.corpus.pixels(bench.corpus.rows(retrieved)),
            cells={
                name: Cell(
                    pixels=variant.pixels[at[name][number]],
                    entity=bool(verdicts[name].entity[at[name][number]]),
                    style=bool(verdicts[name].style[at[name][number]]),
                )
                for name, variant in in_order(variants).items()
                if number in at[name]
            },
        )

    note = (
        f"{len(bench.prompts)} prompts of entities that no part of the model has seen. Chosen by the drawing with "
        "retrieved neighbors: the worse of its two ranks, of entity and of style."
    )
    sections = {name: [row(int(number)) for number in numbers] for name, numbers in chosen.items()}
    sections["two entities in one prompt: best"] = two_entities
    return picture_page("Unseen entities: best, median, worst", note, sections)


def write_evaluation(folder: Path, report: dict[str, Any], page: str) -> None:
    """Write report, page and plots as one folder, or not at all.

    Args:
        folder: of the result.
        report: of the stage `evaluate`.
        page: of `evaluation_page`.
    """
    with atomic_dir(folder) as beside:
        (beside / layout.EVALUATION).write_text(json.dumps(report, indent=1) + "\n")
        (beside / PAGE).write_text(page, encoding="utf-8")
        plots = beside / "faithfulness"
        plots.mkdir()
        (plots / "accuracy.csv").write_text(as_csv(report["variants"]))
        (plots / "accuracy.png").write_bytes(accuracy_plot(report["variants"], num_prompts=report["num_prompts"]))
        for what, curves in report["curves"].items():
            content = curves_plot(curves, xlabel=what, title="Joint accuracy, unseen validation entities")
            (plots / f"by_{what.replace(' ', '_')}.png").write_bytes(content)
        (plots / "by_placement.png").write_bytes(_placement_plot(report["by_placement"]))
        drawings = {
            metric: {name: row[metric] for name, row in report["by_drawings"].items()}
            for metric in ("joint", "entity", "style")
        }
        title = f"Retrieved neighbors, {report['num_prompts']} test prompts"
        steps = report["by_training_step"]
        if steps:
            lines = {
                name: {step: dict.fromkeys(("mean", "low", "high"), row[name]) for step, row in steps.items()}
                for name in ("joint", "entity", "style")
            }
            content = curves_plot(lines, xlabel="training step", title="Validation prompts of unseen entities")
            (plots / "by_training_step.png").write_bytes(content)
        content = curves_plot(drawings, xlabel="drawings of the entity in the knowledge base", title=title)
        (plots / "by_drawings.png").write_bytes(content)


def _placement_plot(placed: Mapping[str, float]) -> bytes:
    lines: dict[str, dict[str, dict[str, float]]] = {}
    for name, loss in placed.items():
        _, kind, placement = name.split("_", 2)
        lines.setdefault(kind, {})[placement] = dict.fromkeys(("mean", "low", "high"), -loss)
    title = "Neighbor gain at t = 950 by where neighbors stand"
    return curves_plot(lines, xlabel="placement of every neighbor", ylabel="v-loss saved", title=title)
