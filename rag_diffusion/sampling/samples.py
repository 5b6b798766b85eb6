"""The samples of a run: their files, what is counted of them, and sheets to look at."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rag_diffusion.arrays import Pixels
from rag_diffusion.files import atomic_dir
from rag_diffusion.readers.images import decode, render_svg, to_square
from rag_diffusion.readers.svg import is_drawing
from rag_diffusion.retrieval.drawings import Drawings
from rag_diffusion.retrieval.neighbor_table import NeighborTable, PromptNeighbors
from rag_diffusion.sampling.provenance import VERSION, Provenance, to_png
from rag_diffusion.sampling.sheets import Card, comparison_sheet, contact_sheet, shown_side
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.types import Prompt

SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("variant", pa.string()),
        ("image", pa.binary()),
        ("first_stage", pa.binary()),  # null where the model is no cascade
        ("neighbors", pa.list_(pa.string())),
        ("seed", pa.int64()),
    ]
)
IMAGES = "images"  # in data/samples: every drawing as a PNG file, a folder for each variant
_COMPARED = 24  # prompts on the comparison sheet


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One drawing.

    Attributes:
        pixels: (H, W, 3) the finished image.
        provenance: of it.
        first_stage: (h, w, 3) what the first stage of a cascade drew; None where it is no cascade.
    """

    pixels: Pixels
    provenance: Provenance
    first_stage: Pixels | None = None


Samples = dict[str, dict[str, Sample]]  # by variant and prompt id


def sample_metrics(drawn: Samples, num_prompts: int) -> dict[str, float]:
    """By variant: images, prompts without neighbors, and how much of the attention went to neighbors at all.

    Args:
        drawn: samples by variant and prompt id.
        num_prompts: of the run.
    """
    metrics: dict[str, float] = {}
    for variant, samples in drawn.items():
        attention = [1 - sample.provenance.null_attention for sample in samples.values()]
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
        (variant, name): to_png(sample.pixels, sample.provenance)
        for variant, samples in drawn.items()
        for name, sample in samples.items()
    }
    rows = [
        {
            "prompt_id": name,
            "variant": variant,
            "image": files[variant, name],
            "first_stage": None if sample.first_stage is None else _png(sample.first_stage),
            "neighbors": [source.pair_id for source in sample.provenance.neighbors],
            "seed": seeds[name],
        }
        for variant, samples in drawn.items()
        for name, sample in samples.items()
    ]
    origins = [
        {"prompt_id": name} | sample.provenance.as_dict()
        for samples in drawn.values()
        for name, sample in samples.items()
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
    thumb = shown_side(sample.pixels for samples in drawn.values() for sample in samples.values()) // 2
    for variant, samples in drawn.items():
        cards = [
            Card(
                title=prompt.text,
                neighbors=pictures_at(corpus, names, thumb),
                image=samples[prompt.prompt_id].pixels if prompt.prompt_id in samples else None,
                neighbor_names=_named(captions, names, table.prompts[prompt.prompt_id]),
            )
            for prompt, names in zip(prompts, lists[variant], strict=True)
        ]
        sheets[variant] = contact_sheet(f"{variant}: neighbors, then the drawing", cards)
    return sheets | {"comparison": _comparison(corpus, prompts, drawn, lists)}


def _png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _named(captions: Mapping[str, str], names: Sequence[str], neighbors: PromptNeighbors) -> tuple[str, ...]:
    """Captions of neighbors, those that were retrieved with the cosine of prompt and caption."""
    cosines = dict(zip(neighbors.retrieved, neighbors.raw.get("text_to_text", ()), strict=False))
    return tuple(f"{cosines[name]:.2f} {captions[name]}" if name in cosines else captions[name] for name in names)


def pictures_at(corpus: Corpus, names: Sequence[str], side: int) -> list[Pixels]:
    """Pairs as they look at another size: rendered again where they are drawings, else as the corpus has them.

    Args:
        corpus: of the pairs.
        names: N pair ids.
        side: pixels.

    Returns:
        N images (H, W, 3).
    """
    if side <= corpus.image_size:
        return list(corpus.pixels(corpus.rows(names))) if names else []
    return [_picture_at(corpus, name, side) for name in names]


def _picture_at(corpus: Corpus, name: str, side: int) -> Pixels:
    original = corpus.pair(name).original
    if original is None:
        own: Pixels = corpus.pixels(corpus.rows([name]))[0]
        return own
    drawing = is_drawing(original)
    return np.asarray(render_svg(original, side, name) if drawing else to_square(decode(original, name), side))


def _one(images: Sequence[Pixels]) -> Pixels | None:
    return images[0] if images else None


def _comparison(
    corpus: Corpus, prompts: Sequence[Prompt], drawn: Samples, lists: Mapping[str, Sequence[tuple[str, ...]]]
) -> Image.Image:
    chosen = range(0, len(prompts), max(1, len(prompts) // _COMPARED))
    drawings, side = Drawings(corpus), shown_side([sample.pixels for sample in next(iter(drawn.values())).values()], 0)

    def row(number: int) -> list[Pixels | None]:
        name = prompts[number].prompt_id
        neighbors = lists.get("retrieved", lists[next(iter(lists))])[number]
        images = [samples[name].pixels if name in samples else None for samples in drawn.values()]
        target = drawings.target(prompts[number])
        real = () if target is None else corpus.ids(np.array([target]))
        return [_one(pictures_at(corpus, neighbors[:1], side)), *images, _one(pictures_at(corpus, real, side))]

    return comparison_sheet(
        "the same prompt and noise, different neighbors",
        ["top neighbor", *drawn, "real"],
        [prompts[number].text for number in chosen],
        [row(number) for number in chosen],
    )
