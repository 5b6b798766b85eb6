"""The neighbors of training pairs and of prompts, as the stage neighbors leaves them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rag_diffusion.errors import DataError
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.store.stamps import check_stamp, write_stamp
from rag_diffusion.types import Hits

PROMPTS_FILE = "prompts.json"

_SCHEMA = pa.schema([
    ("pair_id", pa.string()),
    ("neighbors", pa.list_(pa.string())),
    ("scores", pa.list_(pa.float64())),
])  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PromptNeighbors:
    """Neighbors of one prompt.

    Attributes:
        exclude: pair ids that may not be shown: the target in its style and all near-duplicates of
            it.
        retrieved: the retriever's best pairs.
        scores: their fused scores.
        parts: what each similarity gave to each of them.
        oracle: the retriever's best among the pairs of the prompt's entity.
        raw: the similarities themselves of each retrieved one.
        random: pairs of other families; in other styles where the corpus has enough of them, see
            `Drawings.unrelated`.
        style: the retriever's best pairs of other families in the prompt's style: how it is to be drawn, not what.
    """

    exclude: tuple[str, ...]
    retrieved: tuple[str, ...]
    scores: tuple[float, ...]
    parts: dict[str, tuple[float, ...]]
    oracle: tuple[str, ...]
    random: tuple[str, ...]
    style: tuple[str, ...] = ()
    raw: dict[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class NeighborTable:
    """All neighbors: of train pairs (among train pairs), of validation pairs (train and
    validation), of prompts.

    Attributes:
        training, validation: pair id to neighbor ids, best first.
        prompts: prompt id to its neighbors.
    """

    training: dict[str, list[str]]
    validation: dict[str, list[str]]
    prompts: dict[str, PromptNeighbors]

    @classmethod
    def open(cls, folder: Path | str, corpus: Corpus) -> NeighborTable:
        """Read the table in `folder`, of the `corpus`.

        Raises:
            DataError: it is missing or damaged.
            LineageError: it was made from another corpus.
        """
        folder = Path(folder)
        check_stamp(folder, corpus.hash, stage="neighbors")
        try:
            prompts = json.loads((folder / PROMPTS_FILE).read_text(encoding="utf-8"))
            return cls(
                training=_read_lists(folder / "training.parquet"),
                validation=_read_lists(folder / "validation.parquet"),
                prompts={name: _prompt_neighbors(entry) for name, entry in prompts.items()},
            )
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise DataError(
                f"{folder}: expected a neighbor table, got {error!r}; run the stage `neighbors` again"
            ) from None


def write_neighbors(
    folder: Path,
    *,
    corpus_hash: str,
    training: Mapping[str, Hits],
    validation: Mapping[str, Hits],
    prompts: Mapping[str, PromptNeighbors],
) -> None:
    """Write a neighbor table; the same table gives the same bytes.

    Args:
        folder: an existing one.
        corpus_hash: of the pairs.
        training: hits of each train pair, by pair id.
        validation: hits of each validation pair, by pair id.
        prompts: neighbors by prompt id.
    """
    for name, lists in (("training", training), ("validation", validation)):
        rows = [
            {
                "pair_id": pair_id,
                "neighbors": list(lists[pair_id].pair_ids),
                "scores": list(lists[pair_id].scores),
            }
            for pair_id in sorted(lists)
        ]
        pq.write_table(
            pa.Table.from_pylist(rows, schema=_SCHEMA),
            folder / f"{name}.parquet",
            compression="zstd",
        )
    entries = {name: asdict(prompts[name]) for name in sorted(prompts)}
    (folder / PROMPTS_FILE).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    write_stamp(folder, {"corpus_hash": corpus_hash})


def _read_lists(path: Path) -> dict[str, list[str]]:
    table = pq.read_table(path, schema=_SCHEMA)
    return dict(zip(table["pair_id"].to_pylist(), table["neighbors"].to_pylist(), strict=True))


def _prompt_neighbors(entry: Mapping[str, object]) -> PromptNeighbors:
    frozen = {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
    parts, raw = frozen.pop("parts"), frozen.pop("raw", {})
    assert isinstance(parts, dict)
    assert isinstance(raw, dict)
    by_name = {"parts": parts, "raw": raw}
    similarities = {key: {name: tuple(values) for name, values in lists.items()} for key, lists in by_name.items()}
    return PromptNeighbors(**similarities, **frozen)  # type: ignore[arg-type]
