"""data/baselines on disk: the images, what the ruler saw in them, and what they belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rag_diffusion.arrays import Doubles
from rag_diffusion.errors import DataError, LineageError
from rag_diffusion.metrics.judge import METRICS, Verdicts
from rag_diffusion.metrics.ruler.store import Looks
from rag_diffusion.metrics.variants import Variant, decode_png
from rag_diffusion.readers.images import encode_png
from rag_diffusion.types import Prompt

IMAGES, LOOKS, STAMP = "images.parquet", "looks.safetensors", "stamp.json"
SCHEMA = pa.schema(
    [("prompt_id", pa.string()), ("variant", pa.string()), ("pair_id", pa.string()), ("image", pa.binary())]
    + [(metric, pa.bool_()) for metric in METRICS]
    + [("entity_guess", pa.string()), ("style_guess", pa.string())]
)


@dataclass(frozen=True, kw_only=True)
class Archive:
    """What `baselines` leaves for `score`.

    Attributes:
        variants: images and looks by name.
        prototypes: (n, k) entity features of the drawings of candidate entities, in the order of the corpus.
        real_test: accuracies on the real images of all prompts of the split; None where nothing can be judged.
        absent: variants that cannot be, and why.
    """

    variants: dict[str, Variant]
    prototypes: Doubles
    real_test: dict[str, float] | None
    absent: dict[str, str]


def write_archive(
    folder: Path,
    *,
    prompts: Sequence[Prompt],
    archive: Archive,
    verdicts: Mapping[str, Verdicts],
    stamp: Mapping[str, Any],
) -> None:
    """Write what `baselines` leaves for `score`; the same content gives the same bytes.

    Args:
        folder: data/baselines, which exists.
        prompts: N of the run.
        archive: what is kept.
        verdicts: on its variants, by name; empty where nothing can be judged.
        stamp: what it belongs to, e.g. the corpus hash.
    """
    rows = []
    for name in sorted(archive.variants):
        variant, judged = archive.variants[name], verdicts.get(name)
        for number, prompt in enumerate(prompts[answer] for answer in variant.answers):
            row: dict[str, object] = {"prompt_id": prompt.prompt_id, "variant": name}
            row |= {"pair_id": variant.pair_ids[number], "image": encode_png(variant.pixels[number])}
            if judged is not None:
                row |= {metric: bool(getattr(judged, metric)[number]) for metric in METRICS}
                row |= {"entity_guess": judged.entity_guess[number], "style_guess": judged.style_guess[number]}
            rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / IMAGES, compression="zstd")
    tensors = {f"{name}.{field.name}": np.ascontiguousarray(getattr(variant.looks, field.name)).astype(np.float32)
               for name, variant in sorted(archive.variants.items()) for field in fields(Looks)}  # fmt: skip
    save_file(tensors | {"prototypes": archive.prototypes.astype(np.float32)}, folder / LOOKS)
    stamp = dict(stamp) | {"real_test": archive.real_test, "prompts": [prompt.prompt_id for prompt in prompts]}
    stamp["absent"] = archive.absent
    (folder / STAMP).write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")


def read_archive(folder: Path, *, prompts: Sequence[Prompt], expected: Mapping[str, str]) -> Archive:
    """Read what `baselines` has left.

    Args:
        folder: data/baselines.
        prompts: of this run; other ones are an error.
        expected: entries its stamp must have, e.g. the corpus hash.

    Raises:
        DataError: it is missing or damaged.
        LineageError: it was made from another corpus, ruler or list of prompts.
    """
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        images = pq.read_table(folder / IMAGES, columns=["prompt_id", "variant", "pair_id", "image"]).to_pylist()
        tensors = load_file(folder / LOOKS)
    except (OSError, ValueError, pa.ArrowException, SafetensorError) as error:
        raise DataError(f"{folder}: expected baselines, got {error}; run the stage `baselines`") from None
    for name, value in (dict(expected) | {"prompts": [prompt.prompt_id for prompt in prompts]}).items():
        if stamp.get(name) != value:
            raise LineageError(
                f"{folder}: expected {name} {_short(value)}, got {_short(stamp.get(name))}; run the stage `baselines` "
                "again"
            )
    variants = {}
    numbers = {prompt.prompt_id: number for number, prompt in enumerate(prompts)}
    for name in dict.fromkeys(row["variant"] for row in images):
        own = [row for row in images if row["variant"] == name]
        rows = np.array([numbers[row["prompt_id"]] for row in own], dtype=np.int64)
        looks = Looks(**{field.name: tensors[f"{name}.{field.name}"].astype(np.float64) for field in fields(Looks)})
        variants[name] = Variant(pixels=np.stack([decode_png(row["image"]) for row in own]), looks=looks,
                                 pair_ids=tuple(row["pair_id"] for row in own), rows=rows)  # fmt: skip
    return Archive(
        variants=variants,
        prototypes=tensors["prototypes"].astype(np.float64),
        real_test=stamp["real_test"],
        absent=stamp.get("absent", {}),
    )


def _short(value: object) -> str:
    return (
        f"{value[:12]}…" if isinstance(value, str) else f"{len(value)} ids" if isinstance(value, list) else repr(value)
    )


def check_provenance(folder: Path, corpus_hash: str) -> dict[str, Any]:
    """Refuse samples that were drawn with another corpus.

    Args:
        folder: data/samples.
        corpus_hash: of the corpus.

    Returns:
        provenance.json: what is said of the samples as a whole.

    Raises:
        LineageError: there is none, or it names another corpus.
    """
    path = folder / "provenance.json"
    if not path.is_file():
        raise LineageError(f"{path}: expected where the samples come from, found none; run the stage `sample` again")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    drawn_with = content.get("corpus_hash")
    if drawn_with != corpus_hash:
        raise LineageError(
            f"{path}: expected samples drawn with corpus {corpus_hash[:12]}…, got {str(drawn_with)[:12]}…; "
            "run the stage `sample` again"
        )
    return content
