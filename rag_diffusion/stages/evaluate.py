"""Stage `evaluate` (pipelines/evaluate): the full protocol.

Every variant on all test prompts; accuracy by the number of drawings in the knowledge base; on validation prompts,
curves by the number of neighbors and by guidance; a page to look at. What was drawn outlives an interruption.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rag_diffusion import layout
from rag_diffusion.config import Config
from rag_diffusion.device import choose_device
from rag_diffusion.errors import ModelError
from rag_diffusion.files import atomic_dir, tree_hash
from rag_diffusion.metrics.baselines import make_baselines
from rag_diffusion.metrics.bootstrap import ClusterBootstrap
from rag_diffusion.metrics.judge import METRICS, Judge, Verdicts
from rag_diffusion.metrics.page import Cell, Row, picture_page, ranks
from rag_diffusion.metrics.plots import accuracy_plot, curves_plot
from rag_diffusion.metrics.report import as_csv, in_order, verdict
from rag_diffusion.metrics.scoring import Bench
from rag_diffusion.metrics.variants import Variant, real_rows
from rag_diffusion.models.load import load_generator
from rag_diffusion.retrieval.controls import answered
from rag_diffusion.stages import two_entities
from rag_diffusion.stages.context import StageContext
from rag_diffusion.stages.drawing import DEGRADED, Drawing
from rag_diffusion.stages.score import refuse_blunt_ruler
from rag_diffusion.stages.validation_prompts import ValidationPrompts
from rag_diffusion.training.card import read_card, refuse_seen
from rag_diffusion.training.validation import make_probe, placement_curve
from rag_diffusion.types import Prompt

_LOG = logging.getLogger(__name__)

PAGE = "faithfulness.html"
DRAWN = ("none", "random", "retrieved", "oracle")
_MANY = 7  # drawings of an entity in the knowledge base

Curve = dict[str, dict[str, float]]


def run(ctx: StageContext) -> None:
    """Write pipelines/evaluate/result; `rag-diffusion evaluate` copies it to reports/.

    Raises:
        ModelError: the corpus is not one that the ruler can judge, or the ruler is too blunt.
        LineageError: artifacts do not belong together, or the model has seen a held-out entity.
    """
    config = ctx.config.model_copy(
        update={"sample": ctx.config.sample.model_copy(update={"prompts": ctx.config.evaluate.prompts})}
    )
    bench = Bench.open(ctx.root, config)
    ctx.tracker.log_dataset("corpus", bench.corpus.hash, layout.CORPUS)
    ctx.tracker.log_dataset("model", tree_hash(ctx.root / layout.MODEL), layout.MODEL)
    ctx.tracker.begin()
    made = make_baselines(bench)
    if made.judge is None:
        raise ModelError(f"evaluate: expected the default corpus, got one that cannot be judged: {bench.reason}")
    features = made.gallery.looks(bench.candidates)
    real = bench.real_accuracy(features.entity, features)
    refuse_blunt_ruler(real, config.score.min_real_accuracy)
    refuse_seen(read_card(ctx.root / layout.MODEL), bench.corpus, layout.MODEL)
    variants = dict(made.variants) | _drawn(ctx.root, bench)
    two = two_entities.measure(ctx.root, bench, bench.prototypes(features.entity))
    verdicts = {name: made.judge.verdicts(variant.looks, variant.rows) for name, variant in variants.items()}
    report = bench.report(variants, verdicts) | {
        "model_hash": tree_hash(ctx.root / layout.MODEL),
        "chance": made.judge.chance,
        "real_test": real,
        "by_drawings": by_drawings(bench, verdicts),
        "curves": Curves(root=ctx.root, config=ctx.config).measure(),
        "by_training_step": by_training_step(read_card(ctx.root / layout.MODEL)),
        "by_placement": by_placement(ctx.root, bench),
        "two_entities": two.report,
    }
    report["aims"] = aims(report)
    report["verdict"] = verdict(report["differences"])
    _write(ctx.root / layout.EVALUATED, report, _page(bench, made.judge, variants, verdicts, two.rows))
    _track(ctx, report)


def _drawn(root: Path, bench: Bench) -> dict[str, Variant]:
    drawing = Drawing(root=root, model=root / layout.MODEL, config=bench.config, corpus=bench.corpus, table=bench.table)
    real = bench.corpus.pixels(real_rows(bench.corpus, bench.prompts))
    strength = bench.config.evaluate.degraded_strength
    variants = {}
    for name in (*DRAWN, DEGRADED):
        rows = answered(name, bench.prompts, bench.table.prompts)
        if len(rows):
            begin = (real[rows], strength) if name == DEGRADED else ()
            pixels = drawing.draw(name, [bench.prompts[row] for row in rows], *begin).pixels
            looks = bench.ruler.look(bench.trunk, pixels, desc=f"look at drawings, {name}")
            variants[name] = Variant(pixels=pixels, looks=looks, pair_ids=("",) * len(pixels), rows=rows)
    return variants


def by_drawings(bench: Bench, verdicts: Mapping[str, Verdicts]) -> dict[str, Any]:
    """Accuracy with retrieved neighbors by the number of drawings of the entity that may be retrieved."""
    table = bench.corpus.table
    entity = dict(zip(table["pair_id"], table["entity"], strict=True))
    total = table["entity"].value_counts()
    counts = []
    for prompt in bench.prompts:
        hidden = sum(entity[name] == prompt.entity for name in bench.table.prompts[prompt.prompt_id].exclude)
        counts.append(int(total[prompt.entity]) - hidden)
    answers = verdicts["retrieved"].answers
    found = np.minimum(counts, _MANY)[answers]
    report: dict[str, Any] = {}
    for count in sorted(set(found.tolist())):
        rows = answers[found == count]
        bootstrap = _bootstrap(bench.config, [bench.prompts[row] for row in rows])
        name = f"{count} or more" if count == _MANY else str(count)
        report[name] = {"num_prompts": len(rows)} | {
            metric: bootstrap.interval(verdicts["retrieved"].at(rows, metric)).as_dict()
            for metric in ("joint", "entity", "style")
        }
    return report


def by_placement(root: Path, bench: Bench) -> dict[str, float]:
    """The shift and scale curve on validation pairs: loss at t = 950 minus that without neighbors."""
    generator = load_generator(root / layout.MODEL, choose_device(bench.config.device))
    lists, count = bench.table.validation, bench.config.retrieval.content
    probe = make_probe(generator, bench.corpus, lists, count, bench.config.evaluate.curve_prompts, bench.config.seed)
    return placement_curve(generator, probe)


def by_training_step(card: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """{steps since the start of the base: scores on validation prompts}, of runs with `score_every`; no intervals."""
    base = card.get("base") or {}
    found = [(int(row["step"]), row) for row in base.get("neighbor_gain", ())]
    found += [(int(base.get("steps", 0)) + int(row["step"]), row) for row in card.get("neighbor_gain", ())]
    return {str(step): {name: row[name] for name in METRICS} for step, row in found if METRICS[0] in row}


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Joint accuracy on validation prompts by one setting at a time; everything else as in params.yaml."""

    root: Path
    config: Config

    def measure(self) -> dict[str, dict[str, Curve]]:
        """{what varies: {variant: {its value: interval}}}."""
        prompts = ValidationPrompts.open(self.root, self.config, self.config.evaluate.curve_prompts)
        settings = self.config.evaluate
        most = self.config.retrieval.content

        def curve(variant: str, points: Mapping[str, Config]) -> Curve:
            return {name: prompts.accuracies(config, variant)["joint"] for name, config in points.items()}

        counts = {str(k): self._with(num_neighbors=k) for k in range(1, most + 1)}
        text = {f"{scale:g}": self._with(text_guidance_scale=scale) for scale in settings.curve_text_scales}
        near = {f"{scale:g}": self._with(neighbor_guidance_scale=scale) for scale in settings.curve_neighbor_scales}
        kinds = {mode: self._with(guidance=mode) for mode in ("none", "text", "neighbor", "interleaved", "alternate")}
        none = curve("none", {"0": self._with()})
        return {
            "number of neighbors": {"retrieved": none | curve("retrieved", counts), "oracle": curve("oracle", counts)},
            "text guidance": {"retrieved": curve("retrieved", text)},
            "neighbor guidance": {"retrieved": curve("retrieved", near)},
            "guidance": {"retrieved": curve("retrieved", kinds | {"joint": self._with(guidance="joint")})},
        }

    def _with(self, num_neighbors: int | None = None, **sample: Any) -> Config:
        retrieval = {} if num_neighbors is None else {"content": num_neighbors}
        return self.config.model_copy(
            update={
                "sample": self.config.sample.model_copy(update=sample),
                "retrieval": self.config.retrieval.model_copy(update=retrieval),
            }
        )


def aims(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the project wants, what was measured, and whether it is reached."""
    table, apart, kinds = report["variants"], report["differences"], report["by_kind"]
    placed = report["by_placement"]

    def mean(variant: str, metric: str, of: Mapping[str, Any] = table) -> float:
        return float(of[variant][metric]["mean"])

    def share(part: float, whole: float) -> float:
        return round(part / whole, 4) if whole else 0.0

    found = {
        "retrieved - none, joint, low end": (apart["retrieved-none"]["joint"]["low"], "> 0"),
        "retrieved - copied + palette, joint, low end": (apart["retrieved-copied_snap"]["joint"]["low"], "> 0"),
        "retrieved / real, joint": (share(mean("retrieved", "joint"), mean("real", "joint")), ">= 0.5"),
        "retrieved, style": (mean("retrieved", "style"), ">= 0.6"),
        "random / none, style": (share(mean("random", "style"), mean("none", "style")), ">= 0.8"),
        "sentences / captions, entity": (
            share(mean("retrieved", "entity", kinds["sentence"]), mean("retrieved", "entity", kinds["caption"])),
            ">= 0.8",
        ),
        "moved by 16 px / aligned, gain": (kept(placed, "shift16"), ">= 0.6"),
        "half size / aligned, gain": (kept(placed, "size0.5"), ">= 0.6"),
        "random - none, loss at t = 950": (placed["curve_random_aligned"], "<= 0.004"),
        "two entities, retrieved - none, both, low end": (report["two_entities"]["difference"]["low"], "> 0"),
    }
    if table["none"]["kid"] is not None and table["retrieved"]["kid"] is not None:  # else too few images
        found["retrieved / none, KID"] = (share(mean("retrieved", "kid"), mean("none", "kid")), "<= 0.5")
    return {
        name: {"measured": value, "aim": aim, "reached": _reached(value, aim)} for name, (value, aim) in found.items()
    }


def kept(placed: Mapping[str, float], placement: str) -> float:
    """Share of the aligned neighbor gain that is left where neighbors stand elsewhere; 0 where there is no gain."""
    aligned = -placed["curve_retrieved_aligned"]
    return round(-placed[f"curve_retrieved_{placement}"] / aligned, 4) if aligned > 0 else 0.0


def _reached(value: float, aim: str) -> bool:
    sign, limit = aim.split()
    return {">": value > float(limit), ">=": value >= float(limit), "<=": value <= float(limit)}[sign]


def _bootstrap(config: Config, prompts: Sequence[Prompt]) -> ClusterBootstrap:
    return ClusterBootstrap([prompt.entity for prompt in prompts], draws=config.score.bootstrap_draws, seed=config.seed)


def _page(
    bench: Bench, judge: Judge, variants: Mapping[str, Variant], verdicts: Mapping[str, Verdicts], two: list[Row]
) -> str:
    """Best, median and worst retrieved drawings, and the best of two entities."""
    places = {name: {int(row): place for place, row in enumerate(one.answers)} for name, one in variants.items()}
    retrieved = variants["retrieved"]
    order = retrieved.answers[ranks(judge.margins(retrieved.looks, retrieved.rows))]
    count = min(bench.config.evaluate.shown, len(order) // 3)
    middle = (len(order) - count) // 2
    chosen = {"best": order[:count], "median": order[middle : middle + count], "worst": order[-count:]}
    words = bench.corpus.manifest["style_words"]

    def row(number: int) -> Row:
        prompt = bench.prompts[number]
        shown = bench.table.prompts[prompt.prompt_id].retrieved
        return Row(
            prompt=prompt.text,
            asked=f"{prompt.title}, {words[prompt.style]}",
            neighbors=bench.corpus.pixels(bench.corpus.rows(shown)),
            cells={
                name: Cell(
                    pixels=variant.pixels[places[name][number]],
                    entity=bool(verdicts[name].entity[places[name][number]]),
                    style=bool(verdicts[name].style[places[name][number]]),
                )
                for name, variant in in_order(variants).items()
                if number in places[name]
            },
        )

    note = (
        f"{len(bench.prompts)} prompts of entities that no part of the model has seen. Chosen by the drawing with "
        "retrieved neighbors: the worse of its two ranks, of entity and of style."
    )
    sections = {name: [row(int(number)) for number in numbers] for name, numbers in chosen.items()}
    sections["two entities in one prompt: best"] = two
    return picture_page("Unseen entities: best, median, worst", note, sections)


def _write(folder: Path, report: dict[str, Any], page: str) -> None:
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
            metric: {name: found[metric] for name, found in report["by_drawings"].items()}
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


def _track(ctx: StageContext, report: Mapping[str, Any]) -> None:
    for name, row in report["variants"].items():
        ctx.tracker.log_metrics(
            {f"{name}.{key}": value["mean"] for key, value in row.items() if isinstance(value, dict)}
        )
    for path in sorted((ctx.root / layout.EVALUATED).rglob("*.*")):
        ctx.tracker.log_artifact(path)
    _LOG.info(report["verdict"])
    for name, found in report["aims"].items():
        word = "reached" if found["reached"] else "NOT reached"
        _LOG.info("%s: %.3f, aim %s: %s", name, found["measured"], found["aim"], word)
