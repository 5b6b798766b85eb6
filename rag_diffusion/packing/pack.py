"""Write a training into one folder; see the package's docstring."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import rag_diffusion
from rag_diffusion import layout
from rag_diffusion.config import Config, load_config
from rag_diffusion.corpus.captions import stable_hash
from rag_diffusion.corpus.prompts import read_prompts
from rag_diffusion.errors import DataError
from rag_diffusion.files import tree_hash
from rag_diffusion.packing.layout import MANIFEST, PAIRS, PROMPTS, TEXT_ENCODER, VALIDATION
from rag_diffusion.packing.text_encoder import prune
from rag_diffusion.retrieval.neighbor_table import NeighborTable
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.store.shards import COLUMNS
from rag_diffusion.training.validation import same_style

_MB = 1_000_000
_CHUNK = 4000  # pairs compressed at a time
_STYLE = 3  # style neighbors of a prompt
_RUN = '''"""Train what this folder holds: python run.py [--out OUT] [--minutes M] [--set KEY=VALUE ...]."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "code"), str(HERE / "site")]
if list((HERE / "wheels").glob("*.whl")) and not (HERE / "site").exists():
    wheels = map(str, (HERE / "wheels").glob("*.whl"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    subprocess.run([*pip, "--target", str(HERE / "site"), *wheels], check=True)

from rag_diffusion.packing.run import main  # noqa: E402

if __name__ == "__main__":
    main(HERE)
'''


def pack_pretrain(root: Path, out: Path, *, max_mb: float, wheels: Path | None, corpus: Path | None) -> dict[str, Any]:
    """Write all that `pretrain` needs into a new folder.

    Args:
        root: the project.
        out: folder to make.
        max_mb: the most megabytes (10^6 bytes) of all files; pairs fill what the rest leaves.
        wheels: folder of wheels to take along.
        corpus: folder of the corpus; None is the project's own. Its emoji are those of the project's neighbor table.

    Returns:
        The manifest: how many of what, and what did not fit.

    Raises:
        DataError: the folder is there already, pairs have no SVG, or not even the first ones fit.
        ConfigError, LineageError: as the readers of what is packed.
    """
    if out.exists():
        raise DataError(f"{out}: expected a folder that is not there yet, found one; name another or remove it")
    config = load_config(root / "params.yaml")
    own = Corpus.open(root / layout.CORPUS)
    table = NeighborTable.open(root / layout.NEIGHBORS, own)
    pairs = own if corpus is None else Corpus.open(corpus)
    (out / "wheels").mkdir(parents=True)
    for wheel in sorted(wheels.glob("*.whl")) if wheels else ():
        shutil.copy(wheel, out / "wheels")
    shutil.copytree(
        Path(rag_diffusion.__file__).parent, out / "code/rag_diffusion", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(root / "params.yaml", out)
    (out / "run.py").write_text(_RUN)
    (out / VALIDATION).write_text(json.dumps(table.validation))
    prompts = _prompts(root, config, pairs, table)
    (out / PROMPTS).write_text(json.dumps(prompts))
    rows = _order(pairs, config, table)
    texts = [*pairs.table["caption"].iloc[rows], *(prompt["text"] for prompt in prompts), ""]
    tokens = prune(texts, out / TEXT_ENCODER)
    written = _write_pairs(pairs, rows, out / PAIRS, int(max_mb * _MB) - _size(out) - 4096)
    manifest = {
        "corpus_hash": pairs.hash,
        "pairs": written,
        "left_out": len(rows) - written,
        "tokens": tokens,
        "text_encoder": config.model.text_encoder,
        "code": tree_hash(out / "code"),
        "megabytes": round(_size(out) / _MB, 1),
    }
    (out / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def _order(corpus: Corpus, config: Config, table: NeighborTable) -> list[int]:
    """Rows to pack, first what matters most: validation pairs and the focus styles, then entities of many sources."""
    pairs = corpus.table
    needed = set(table.validation) | {name for names in table.validation.values() for name in names}
    focus = pairs["style"].isin(config.pretrain.focus_styles or pairs["style"].unique())
    held = (pairs["split"] == "validation") & focus
    first = pairs["pair_id"].isin(needed) | (focus & (pairs["split"] == "train")) | held
    rest = pairs[(pairs["split"] == "train") & ~first]
    sources = rest.groupby("entity")["source"].nunique()
    rank = {name: (-min(int(count), 5), stable_hash(str(name))) for name, count in sources.items()}
    order = sorted(range(len(rest)), key=lambda row: (rank[rest["entity"].iloc[row]], row))
    return [*np.flatnonzero(first).tolist(), *rest.index[order].tolist()]


def _write_pairs(corpus: Corpus, rows: list[int], path: Path, budget: int) -> int:
    """Write pairs until the budget of bytes is spent; returns how many."""
    written = 0
    writer: pq.ParquetWriter | None = None
    size = 0
    for part in _chunks(corpus, rows):
        if writer is None:
            writer = pq.ParquetWriter(path, part.schema, compression="zstd", compression_level=19)
        cost = _compressed(part)
        if size + cost > budget:
            break
        writer.write_table(part)
        size, written = size + cost, written + part.num_rows
    if writer is not None:
        writer.close()
    if not written:
        raise DataError(f"pack: expected room for {_CHUNK} pairs, got {budget / _MB:.1f} MB; raise --max-mb")
    return written


def _chunks(corpus: Corpus, rows: list[int]) -> Iterator[pa.Table]:
    columns = [name for name in COLUMNS if name != "image"]
    paths = [corpus.path / shard["name"] for shard in corpus.manifest["shards"]]
    pairs = pa.concat_tables([pq.read_table(path, columns=columns) for path in paths])
    for start in range(0, len(rows), _CHUNK):
        part = pairs.take(rows[start : start + _CHUNK])
        bare = part.filter(pc.field("original").is_null())["pair_id"].to_pylist()
        if bare:
            raise DataError(f"pack: expected pairs with an SVG, got none for {bare[:3]}; pack an Iconify corpus")
        yield part


def _compressed(part: pa.Table) -> int:
    buffer = pa.BufferOutputStream()
    pq.write_table(part, buffer, compression="zstd", compression_level=19)
    return int(buffer.getvalue().size)


def _prompts(root: Path, config: Config, corpus: Corpus, table: NeighborTable) -> list[dict[str, Any]]:
    """Validation prompts with their neighbors of both roles."""
    rng = np.random.default_rng(config.seed)
    entries = []
    for prompt in read_prompts(root / layout.PROMPTS / "validation.jsonl"):
        neighbors = table.prompts[prompt.prompt_id]
        train = corpus.table[(corpus.table["split"] == "train") & (corpus.table["style"] == prompt.style)]
        style = same_style(corpus, str(train["pair_id"].iloc[0]), _STYLE, rng)
        lists = {"retrieved": list(neighbors.retrieved), "random": list(neighbors.random), "style": style}
        entries.append(asdict(prompt) | lists)
    return entries


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
