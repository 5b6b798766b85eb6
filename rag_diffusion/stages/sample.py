"""Stage `sample`: the fixed prompts, the same noise for every variant, contact sheets and provenance."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rag_diffusion import layout
from rag_diffusion.arrays import Ints, Pixels
from rag_diffusion.corpus.prompts import load_prompts
from rag_diffusion.files import atomic_dir, tree_hash
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.retrieval.controls import answered, shown_to, why_without
from rag_diffusion.retrieval.drawings import Drawings
from rag_diffusion.retrieval.leaks import check_exclusions
from rag_diffusion.retrieval.neighbor_table import NeighborTable, PromptNeighbors
from rag_diffusion.sampling.drawing import VariantSampler
from rag_diffusion.sampling.provenance import VERSION, Provenance, to_png
from rag_diffusion.sampling.sheets import Card, comparison_sheet, contact_sheet
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.training.card import read_card, refuse_seen
from rag_diffusion.types import Prompt

_LOG = logging.getLogger(__name__)

SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("variant", pa.string()),
        ("image", pa.binary()),
        ("neighbors", pa.list_(pa.string())),
        ("seed", pa.int64()),
    ]
)
IMAGES = "images"  # in data/samples: every drawing as a PNG file, a folder for each variant
_COMPARED = 24  # prompts on the comparison sheet
_TRACED = 40  # samples that MLflow shows with query, hits and times

Sample = tuple[Pixels, Provenance]
Samples = dict[str, dict[str, Sample]]  # by variant and prompt id


def run(ctx: StageContext) -> None:
    """Write data/samples and reports/sheets."""
    corpus = Corpus.open(ctx.root / layout.CORPUS)
    prompts = load_prompts(ctx.root, ctx.config.sample.prompts, corpus)
    table = NeighborTable.open(ctx.root / layout.NEIGHBORS, corpus)
    answers: dict[str, Ints] = {
        variant: answered(variant, prompts, table.prompts) for variant in ctx.config.sample.variants
    }
    check_exclusions(table, corpus, prompts)
    model = ctx.root / layout.MODEL
    refuse_seen(read_card(model), corpus, layout.MODEL)
    ctx.tracker.log_dataset("corpus", corpus.hash, layout.CORPUS)
    ctx.tracker.log_dataset("model", tree_hash(model), layout.MODEL)
    ctx.tracker.begin()
    drawing = VariantSampler(root=ctx.root, model=model, config=ctx.config, corpus=corpus, table=table)
    drawn: Samples = {
        variant: _drawn(drawing, variant, prompts, rows) for variant, rows in answers.items() if len(rows)
    }
    ctx.tracker.log_traces([trace for trace in drawing.traces if trace.inputs["variant"] == "retrieved"][:_TRACED])
    ctx.tracker.log_metrics(sample_metrics(drawn, len(prompts)))
    stamp = {"corpus_hash": corpus.hash, "model_hash": tree_hash(model)} | _missing(prompts, answers)
    for variant, reason in stamp["absent"].items():
        _LOG.warning("%s: not drawn for any prompt: %s", variant, reason)
    _write_samples(ctx.root / layout.SAMPLES, prompts, drawn, stamp)
    _write_sheets(ctx, corpus, prompts, drawn, table)


def _drawn(drawing: VariantSampler, variant: str, prompts: Sequence[Prompt], rows: Ints) -> dict[str, Sample]:
    drawn = drawing.draw(variant, [prompts[row] for row in rows])
    samples = zip(drawn.pixels, drawn.provenance, strict=True)
    return {prompts[row].prompt_id: sample for row, sample in zip(rows, samples, strict=True)}


def sample_metrics(drawn: Samples, num_prompts: int) -> dict[str, float]:
    """By variant: images, prompts without neighbors, and how much of the attention went to neighbors at all.

    Args:
        drawn: samples by variant and prompt id.
        num_prompts: of the run.
    """
    metrics: dict[str, float] = {}
    for variant, samples in drawn.items():
        attention = [1 - origin.null_attention for _, origin in samples.values()]
        metrics |= {
            f"{variant}.images": len(samples),
            f"{variant}.without_neighbors": num_prompts - len(samples),
            f"{variant}.attention_to_neighbors": float(np.mean(attention)),
        }
    return metrics


def file_name(number: int, text: str) -> str:
    """A drawing's file: the `number` of its prompt, and the words of its `text`."""
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:48].rstrip("-")
    return f"{number:04d}-{words}.png" if words else f"{number:04d}.png"


def _missing(prompts: Sequence[Prompt], answers: Mapping[str, Ints]) -> dict[str, Any]:
    """Variants that cannot be and why, and the prompts that the others have no neighbors for."""
    absent = {variant: why_without(variant) for variant, rows in answers.items() if not len(rows)}
    without = {
        variant: [prompts[row].prompt_id for row in sorted(set(range(len(prompts))) - set(rows.tolist()))]
        for variant, rows in answers.items()
        if variant not in absent
    }
    return {"absent": absent, "without": {variant: names for variant, names in without.items() if names}}


def _write_samples(folder: Path, prompts: Sequence[Prompt], drawn: Samples, stamp: Mapping[str, Any]) -> None:
    seeds = {prompt.prompt_id: prompt.seed for prompt in prompts}
    names = {prompt.prompt_id: file_name(number, prompt.text) for number, prompt in enumerate(prompts)}
    files = {
        (variant, name): to_png(pixels, origin)
        for variant, samples in drawn.items()
        for name, (pixels, origin) in samples.items()
    }
    rows = [
        {
            "prompt_id": name,
            "variant": variant,
            "image": files[variant, name],
            "neighbors": [source.pair_id for source in origin.neighbors],
            "seed": seeds[name],
        }
        for variant, samples in drawn.items()
        for name, (_, origin) in samples.items()
    ]
    origins = [
        {"prompt_id": name} | made.as_dict() for samples in drawn.values() for name, (_, made) in samples.items()
    ]
    content = {"version": VERSION, **stamp, "images": origins}
    with atomic_dir(folder) as beside:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), beside / "samples.parquet", compression="zstd")
        (beside / "provenance.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        for (variant, name), png in files.items():
            path = beside / IMAGES / variant / names[name]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png)


def _write_sheets(
    ctx: StageContext, corpus: Corpus, prompts: Sequence[Prompt], drawn: Samples, table: NeighborTable
) -> None:
    captions = dict(zip(corpus.table["pair_id"], corpus.table["caption"], strict=True))
    lists = {variant: [shown_to(variant, table.prompts[prompt.prompt_id]) for prompt in prompts] for variant in drawn}
    with atomic_dir(ctx.root / layout.REPORTS / "sheets") as beside:
        for variant, samples in drawn.items():
            cards = [
                Card(
                    title=prompt.text,
                    neighbors=corpus.pixels(corpus.rows(names)),
                    image=samples[prompt.prompt_id][0] if prompt.prompt_id in samples else None,
                    neighbor_names=_named(captions, names, table.prompts[prompt.prompt_id]),
                )
                for prompt, names in zip(prompts, lists[variant], strict=True)
            ]
            _save(ctx, beside, variant, contact_sheet(f"{variant}: neighbors, then the drawing", cards))
        _save(ctx, beside, "comparison", _comparison(corpus, prompts, drawn, lists))
    rows = [
        {"prompt": prompt.text, "variant": variant, "neighbors": ", ".join(names)}
        for variant, chosen in lists.items()
        for prompt, names in zip(prompts, chosen, strict=True)
    ]
    ctx.tracker.log_table(rows, "neighbors")


def _named(captions: Mapping[str, str], names: Sequence[str], neighbors: PromptNeighbors) -> tuple[str, ...]:
    """Captions of neighbors, those that were retrieved with the cosine of prompt and caption."""
    cosines = dict(zip(neighbors.retrieved, neighbors.raw.get("text_to_text", ()), strict=False))
    return tuple(f"{cosines[name]:.2f} {captions[name]}" if name in cosines else captions[name] for name in names)


def _comparison(
    corpus: Corpus, prompts: Sequence[Prompt], drawn: Samples, lists: Mapping[str, Sequence[tuple[str, ...]]]
) -> Image.Image:
    chosen = range(0, len(prompts), max(1, len(prompts) // _COMPARED))
    drawings = Drawings(corpus)

    def row(number: int) -> list[Pixels | None]:
        name = prompts[number].prompt_id
        neighbors = lists.get("retrieved", lists[next(iter(lists))])[number]
        images = [samples[name][0] if name in samples else None for samples in drawn.values()]
        target = drawings.target(prompts[number])
        real = None if target is None else corpus.pixels([target])[0]
        return [corpus.pixels(corpus.rows(neighbors[:1]))[0] if neighbors else None, *images, real]

    return comparison_sheet(
        "the same prompt and noise, different neighbors",
        ["top neighbor", *drawn, "real"],
        [prompts[number].text for number in chosen],
        [row(number) for number in chosen],
    )


def _save(ctx: StageContext, folder: Path, name: str, sheet: Image.Image) -> None:
    sheet.save(folder / f"{name}.png")
    ctx.tracker.log_image(sheet, f"sheets/{name}", step=0)  # MLflow compares pictures that have a step
