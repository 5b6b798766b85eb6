"""Stage `sample`: the fixed prompts, the same noise for every variant, contact sheets and provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from rag_diffusion import layout
from rag_diffusion.corpus.prompts import load_prompts
from rag_diffusion.corpus.store import Corpus
from rag_diffusion.errors import LineageError
from rag_diffusion.files import atomic_dir, tree_hash
from rag_diffusion.retrieval.leaks import check_exclusions
from rag_diffusion.retrieval.neighbors import NeighborTable
from rag_diffusion.sampling.provenance import VERSION, Provenance, to_png
from rag_diffusion.sampling.sheets import Card, comparison_sheet, contact_sheet
from rag_diffusion.stages.context import StageContext
from rag_diffusion.stages.drawing import Drawing
from rag_diffusion.training.card import read_card, refuse_seen
from rag_diffusion.types import Prompt

SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("variant", pa.string()),
        ("image", pa.binary()),
        ("neighbors", pa.list_(pa.string())),
        ("seed", pa.int64()),
    ]
)
_COMPARED = 24  # prompts on the comparison sheet
_TRACED = 40  # samples that MLflow shows with query, hits and times

Images = dict[str, NDArray[np.uint8]]


def run(ctx: StageContext) -> None:
    """Write data/samples and reports/sheets."""
    corpus = Corpus.open(ctx.root / layout.CORPUS)
    prompts = load_prompts(ctx.root, ctx.config.sample.prompts, corpus)
    table = NeighborTable.open(ctx.root / layout.NEIGHBORS, corpus)
    missing = [prompt.prompt_id for prompt in prompts if prompt.prompt_id not in table.prompts]
    if missing:
        raise LineageError(
            f"{layout.NEIGHBORS}: expected neighbors of every prompt, got none for {missing[:3]}; "
            "run the stage `neighbors`"
        )
    check_exclusions(table, corpus, prompts)
    model = ctx.root / layout.MODEL
    refuse_seen(read_card(model), corpus, layout.MODEL)
    ctx.tracker.log_dataset("corpus", corpus.hash, layout.CORPUS)
    ctx.tracker.log_dataset("model", tree_hash(model), layout.MODEL)
    ctx.tracker.begin()
    drawing = Drawing(root=ctx.root, model=model, config=ctx.config, corpus=corpus, table=table)
    drawn = {variant: drawing.draw(variant, prompts) for variant in ctx.config.sample.variants}
    ctx.tracker.log_traces([one for one in drawing.traces if one.inputs["variant"] == "retrieved"][:_TRACED])
    images: Images = {variant: found.pixels for variant, found in drawn.items()}
    lists = {variant: [drawing.shown(variant, prompt) for prompt in prompts] for variant in images}
    stamp = {"corpus_hash": corpus.hash, "model_hash": tree_hash(model)}
    origins: dict[str, list[Provenance]] = {variant: found.provenance for variant, found in drawn.items()}
    _write_samples(ctx.root / layout.SAMPLES, prompts, images, origins, stamp)
    _write_sheets(ctx, corpus, prompts, images, lists)


def _write_samples(
    folder: Path,
    prompts: Sequence[Prompt],
    images: Images,
    origins: Mapping[str, Sequence[Provenance]],
    stamp: Mapping[str, str],
) -> None:
    rows = [
        {
            "prompt_id": prompt.prompt_id,
            "variant": variant,
            "image": to_png(drawn[number], origins[variant][number]),
            "neighbors": [source.pair_id for source in origins[variant][number].neighbors],
            "seed": prompt.seed,
        }
        for variant, drawn in images.items()
        for number, prompt in enumerate(prompts)
    ]
    listed = [
        {"prompt_id": prompt.prompt_id} | origin.as_dict()
        for found in origins.values()
        for prompt, origin in zip(prompts, found, strict=True)
    ]
    content = {"version": VERSION, **stamp, "images": listed}
    with atomic_dir(folder) as beside:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), beside / "samples.parquet", compression="zstd")
        (beside / "provenance.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _write_sheets(
    ctx: StageContext,
    corpus: Corpus,
    prompts: Sequence[Prompt],
    images: Images,
    lists: dict[str, list[tuple[str, ...]]],
) -> None:
    captions = dict(zip(corpus.table["pair_id"], corpus.table["caption"], strict=True))
    with atomic_dir(ctx.root / layout.REPORTS / "sheets") as beside:
        for variant, drawn in images.items():
            cards = [
                Card(
                    title=prompt.text,
                    neighbors=corpus.pixels(corpus.rows(names)),
                    image=drawn[number],
                    neighbor_names=tuple(captions[name] for name in names),
                )
                for number, (prompt, names) in enumerate(zip(prompts, lists[variant], strict=True))
            ]
            _save(
                ctx,
                beside,
                variant,
                contact_sheet(f"{variant}: neighbors, then the drawing", cards),
            )
        _save(ctx, beside, "comparison", _comparison(corpus, prompts, images, lists))
    rows = [
        {"prompt": prompt.text, "variant": variant, "neighbors": ", ".join(names)}
        for variant, chosen in lists.items()
        for prompt, names in zip(prompts, chosen, strict=True)
    ]
    ctx.tracker.log_table(rows, "neighbors")


def _comparison(
    corpus: Corpus,
    prompts: Sequence[Prompt],
    images: Images,
    lists: dict[str, list[tuple[str, ...]]],
) -> Image.Image:
    chosen = range(0, len(prompts), max(1, len(prompts) // _COMPARED))
    white = np.full((corpus.image_size, corpus.image_size, 3), 255, dtype=np.uint8)
    pairs = zip(corpus.table["entity"], corpus.table["style"], strict=True)
    real = {pair: row for row, pair in enumerate(pairs)}

    def row(number: int) -> list[NDArray[np.uint8]]:
        prompt = prompts[number]
        shown = lists.get("retrieved", lists[next(iter(lists))])[number]
        target = real.get((prompt.entity, prompt.style))
        neighbor = corpus.pixels(corpus.rows(shown[:1]))[0] if shown else white
        return [
            neighbor,
            *(drawn[number] for drawn in images.values()),
            white if target is None else corpus.pixels([target])[0],
        ]

    columns = ["top neighbor", *images, "real"]
    titles = [prompts[number].text for number in chosen]
    return comparison_sheet(
        "the same prompt and noise, different neighbors",
        columns,
        titles,
        [row(number) for number in chosen],
    )


def _save(ctx: StageContext, folder: Path, name: str, sheet: Image.Image) -> None:
    sheet.save(folder / f"{name}.png")
    ctx.tracker.log_image(sheet, f"sheets/{name}")
