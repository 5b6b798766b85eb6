"""Neighbors of every training pair and of every prompt; never the target or its duplicate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rag_diffusion.arrays import Ints, Mask
from rag_diffusion.errors import DataError
from rag_diffusion.progress import progress
from rag_diffusion.retrieval.drawings import Drawings
from rag_diffusion.retrieval.retriever import Retriever
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.store.stamps import check_stamp, write_stamp
from rag_diffusion.types import Hits, Prompt

NO_STYLE = "default"  # style of a corpus without styles
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
        """Read the table of a corpus.

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


def pair_neighbors(retriever: Retriever, rows: Ints, candidates: Mask, *, top_k: int) -> dict[str, Hits]:
    """Neighbors of pairs by their own captions, best first.

    Args:
        retriever: over the whole corpus.
        rows: the pairs to find neighbors for.
        candidates: (N,) rows that may be neighbors; a pair and its near-duplicates never are its
            own.
        top_k: neighbors kept.

    Returns:
        Pair id -> its hits, never the pair itself nor a near-duplicate.
    """
    corpus = _corpus(retriever)
    table = corpus.table.iloc[rows]
    drawings = Drawings(corpus)
    rankings = retriever.rank(
        table["caption"].tolist(),
        depth=top_k,
        exclude=[drawings.of_pair(int(row)) for row in rows],
        within=candidates,
        query_vectors=retriever.vectors.text[rows],
    )
    shown = progress(zip(table["pair_id"], rankings, strict=True), total=len(rows), desc="neighbors", unit="pair")
    return {pair_id: retriever.hits(ranking, top_k) for pair_id, ranking in shown}


def prompt_neighbors(
    retriever: Retriever, prompts: Sequence[Prompt], *, num_neighbors: int, seed: int, num_style: int = 0
) -> dict[str, PromptNeighbors]:
    """Retrieved, oracle, random and style neighbors of prompts, over all pairs but the excluded.

    Args:
        retriever: over the whole corpus.
        prompts: with the target entity and style.
        num_neighbors: of each kind; fewer come where the corpus has fewer.
        seed: of the random ones, together with the prompt's own seed.
        num_style: style neighbors of each; none in a corpus without styles.
    """
    corpus = _corpus(retriever)
    drawings = Drawings(corpus)
    excluded = [drawings.of_prompt(prompt) for prompt in prompts]
    texts = [prompt.text for prompt in prompts]
    rankings = retriever.rank(texts, depth=len(corpus), exclude=excluded)
    found: dict[str, PromptNeighbors] = {}
    shown = progress(
        zip(prompts, excluded, rankings, strict=True),
        total=len(prompts),
        desc="prompts",
        unit="prompt",
    )
    for prompt, rows, ranking in shown:
        hits = retriever.hits(ranking, num_neighbors)
        oracle = ranking.rows[drawings.entity[ranking.rows] == prompt.entity][:num_neighbors]
        found[prompt.prompt_id] = PromptNeighbors(
            exclude=_ids(corpus, rows),
            retrieved=hits.pair_ids,
            scores=hits.scores,
            parts=hits.parts,
            raw=hits.raw,
            oracle=_ids(corpus, oracle),
            random=_ids(corpus, _random_rows(drawings, prompt, rows, num_neighbors, seed)),
            style=_ids(corpus, _style_rows(drawings, prompt, ranking.rows, num_style)),
        )
    return found


def _corpus(retriever: Retriever) -> Corpus:
    """Training neighbors are those of the pipeline's own corpus."""
    assert isinstance(retriever.corpus, Corpus)
    return retriever.corpus


def write_neighbors(
    folder: Path,
    *,
    corpus_hash: str,
    training: Mapping[str, Hits],
    validation: Mapping[str, Hits],
    prompts: Mapping[str, PromptNeighbors],
) -> None:
    """Write a neighbor table into an existing folder; the same table gives the same bytes."""
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


def _random_rows(drawings: Drawings, prompt: Prompt, excluded: Ints, count: int, seed: int) -> Ints:
    may = drawings.unrelated(prompt)
    may[excluded] = False
    rows = np.flatnonzero(may)
    return np.random.default_rng([seed, prompt.seed]).choice(rows, size=min(count, len(rows)), replace=False)


def _style_rows(drawings: Drawings, prompt: Prompt, ranked: Ints, count: int) -> Ints:
    """The first of the ranked rows that show other families in the prompt's style."""
    if prompt.style == NO_STYLE:
        return ranked[:0]
    may = (drawings.style[ranked] == prompt.style) & (drawings.family[ranked] != prompt.family)
    found: Ints = ranked[may][:count]
    return found


def _ids(corpus: Corpus, rows: Ints) -> tuple[str, ...]:
    return tuple(corpus.table["pair_id"].iloc[rows])


def _read_lists(path: Path) -> dict[str, list[str]]:
    table = pq.read_table(path, schema=_SCHEMA)
    return dict(zip(table["pair_id"].to_pylist(), table["neighbors"].to_pylist(), strict=True))


def _prompt_neighbors(entry: Mapping[str, object]) -> PromptNeighbors:
    frozen = {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
    parts, raw = frozen.pop("parts"), frozen.pop("raw", {})
    assert isinstance(parts, dict)
    assert isinstance(raw, dict)
    by_name = {"parts": parts, "raw": raw}
    told = {key: {name: tuple(values) for name, values in one.items()} for key, one in by_name.items()}
    return PromptNeighbors(**told, **frozen)  # type: ignore[arg-type]
