"""The knowledge base as a data set of Hugging Face: Parquet by split, with images, captions, licences, and a card."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rag_diffusion.arrays import Ints
from rag_diffusion.publishing.cards import card, licence_metadata, licence_table, size_category
from rag_diffusion.store.pairs import Pairs
from rag_diffusion.types import SPLITS

COLUMNS = (
    "pair_id", "caption", "title", "entity", "category", "style", "source", "licence", "attribution",
)  # fmt: skip
_ROWS = 100  # a row group
_SHARD = 20_000  # pairs of a file
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_SCHEMA = pa.schema([("image", _IMAGE), *((name, pa.string()) for name in COLUMNS)])


def write_dataset(folder: Path, pairs: Pairs, name: str) -> dict[str, int]:
    """Write a repository that `datasets.load_dataset` reads.

    Args:
        folder: to write into; empty, or not there.
        pairs: of the knowledge base; their images come as PNG at its size.
        name: of the repository, for its card.

    Returns:
        Pairs by split.
    """
    splits = pairs.column("split")
    rows = {split: np.flatnonzero(splits == split) for split in SPLITS}
    rows = {split: own for split, own in rows.items() if len(own)}
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for split, own in rows.items():
        shards = [own[start : start + _SHARD] for start in range(0, len(own), _SHARD)]
        for number, shard in enumerate(shards):
            path = folder / "data" / f"{split}-{number:05d}-of-{len(shards):05d}.parquet"
            _write(path, pairs, shard)
    counts = {split: len(own) for split, own in rows.items()}
    (folder / "README.md").write_text(_card(pairs, counts, name), encoding="utf-8")
    return counts


def _write(path: Path, pairs: Pairs, rows: Ints) -> None:
    features = {"image": {"_type": "Image"}} | {name: {"dtype": "string", "_type": "Value"} for name in COLUMNS}
    schema = _SCHEMA.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            names = pairs.ids(part)
            images = [
                {"bytes": image, "path": f"{pair_id.replace('/', '_')}.png"}
                for image, pair_id in zip(pairs.images(part), names, strict=True)
            ]
            columns: dict[str, Any] = {column: pairs.cells(column, part) for column in COLUMNS}
            writer.write_table(pa.Table.from_pydict({"image": images, **columns}, schema=schema))


def _card(pairs: Pairs, counts: dict[str, int], name: str) -> str:
    licences = Counter(pairs.column("licence").tolist())
    metadata = licence_metadata(licences) | {
        "pretty_name": name.rpartition("/")[2],
        "task_categories": ["text-to-image"],
        "size_categories": [size_category(len(pairs))],
        "tags": ["rag-diffusion", "image-text-pairs"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in counts],
            }
        ],
    }
    sets = "\n".join(f"- `{one.name}`: {one.num_pairs:,} pairs, version `{one.hash[:12]}`" for one in pairs.versions)
    splits = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    return card(
        metadata,
        f"""
# {name.rpartition("/")[2]}

{len(pairs):,} image-text pairs ({splits}), a knowledge base of rag-diffusion: a drawing is
conditioned on pairs that are retrieved for its prompt. Images are PNG, {pairs.image_size} pixels a side.

```python
datasets.load_dataset("{name}")                         # rows: image, caption, licence ...
```
```
rag-diffusion kb add pairs hf://datasets/{name}
```

## Licences

Each pair has its own in `licence`, its author in `attribution`; both go into the provenance of what is drawn.

{licence_table(licences)}

## Data sets

{sets}
""",
    )
