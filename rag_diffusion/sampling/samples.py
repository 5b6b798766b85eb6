"""The samples of a run: their files, what is counted of them, and sheets to look at."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rag_diffusion.arrays import Pixels
from rag_diffusion.files import atomic_dir
from rag_diffusion.retrieval.drawings import Drawings
from rag_diffusion.retrieval.neighbor_table import NeighborTable, PromptNeighbors
from rag_diffusion.sampling.provenance import VERSION, Provenance, to_png
from rag_diffusion.sampling.sheets import Card, comparison_sheet, contact_sheet
from rag_diffusion.store.corpus import Corpus
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
IMAGES = "images"  # in data/samples: every drawing as a PNG file, a folder for each variant
_COMPARED = 24  # prompts on the comparison sheet

Sample = tuple[Pixels, Provenance]
Samples = dict[str, dict[str, Sample]]  # by variant and prompt id


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


def write_samples(folder: Path, prompts: Sequence[Prompt], drawn: Samples, stamp: Mapping[str, Any]) -> None:
    """Write data/samples: a table, the provenance of all, and every drawing as a PNG file.

    Args:
        folder: to make or replace.
        prompts: N of the run.
        drawn: samples by variant and prompt id.
        stamp: what is said of all of them, e.g. the corpus hash.
    """
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


def sample_sheets(
    corpus: Corpus,
    prompts: Sequence[Prompt],
    drawn: Samples,
    lists: Mapping[str, Sequence[tuple[str, ...]]],
    table: NeighborTable,
) -> dict[str, Image.Image]:
    """A sheet for each variant (neighbors, then the drawing), and `comparison` of all of them.

    Args:
        corpus: of the neighbors.
        prompts: N of the run.
        drawn: samples by variant and prompt id.
        lists: by variant, pair ids of the neighbors of each of the N prompts.
        table: has the cosines of retrieved neighbors.
    """
    captions = dict(zip(corpus.column("pair_id"), corpus.column("caption"), strict=True))
    sheets = {}
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
        sheets[variant] = contact_sheet(f"{variant}: neighbors, then the drawing", cards)
    return sheets | {"comparison": _comparison(corpus, prompts, drawn, lists)}


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
