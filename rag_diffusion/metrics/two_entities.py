"""The part of stage `evaluate` with two entities in one prompt: retrieved, drawn and judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rag_diffusion import layout
from rag_diffusion.arrays import Pixels
from rag_diffusion.metrics.bootstrap import ClusterBootstrap
from rag_diffusion.metrics.page import Cell, PageRow
from rag_diffusion.metrics.ruler.entity import Prototypes
from rag_diffusion.metrics.ruler.store import Looks
from rag_diffusion.metrics.scoring import Bench
from rag_diffusion.metrics.two import TwoPrompt, can_be_judged, collage, shown_entities, two_entity_prompts
from rag_diffusion.metrics.variants import real_rows
from rag_diffusion.readers.caption_text import with_article
from rag_diffusion.retrieval.assemble import pipeline_retriever
from rag_diffusion.retrieval.neighbor_table import PromptNeighbors
from rag_diffusion.retrieval.query import Query
from rag_diffusion.sampling.drawing import VariantSampler

NEIGHBORS = 4  # two of each
DRAWN = ("none", "retrieved")


@dataclass(frozen=True, kw_only=True)
class TwoEntities:
    """What was measured, and rows for the page."""

    report: dict[str, Any]
    rows: list[PageRow]


def measure(root: Path, bench: Bench, prototypes: Prototypes) -> TwoEntities:
    """Draw the default prompts two and two.

    Args:
        root: the project.
        bench: of the run.
        prototypes: of its candidate entities.
    """
    words: Mapping[str, str] = bench.corpus.manifest["style_words"]
    asked = two_entity_prompts([prompt for prompt in bench.prompts if prompt.default], words)
    found = _retrieved(root, bench, asked)
    hidden = [_hidden(bench, two, found[two.prompt.prompt_id]) for two in asked]
    kept = [number for number, styles in enumerate(hidden) if can_be_judged(prototypes, styles)]
    asked, hidden = [asked[number] for number in kept], [hidden[number] for number in kept]
    pixels = _drawn(root, bench, asked, found)
    looks = {
        name: bench.ruler.look(bench.trunk, images, desc=f"look at two entities, {name}")
        for name, images in pixels.items()
    }
    verdicts = {name: _verdicts(prototypes, found, asked, hidden) for name, found in looks.items()}
    clusters = [two.first.entity for two in asked]
    bootstrap = ClusterBootstrap(clusters, draws=bench.config.score.bootstrap_draws, seed=bench.config.seed)
    report = {
        "num_prompts": len(asked),
        "neighbors_of_both": float(np.mean([_both(bench, two, found[two.prompt.prompt_id]) for two in asked])),
        "variants": {
            name: {
                metric: bootstrap.interval(values[:, column]).as_dict() for column, metric in enumerate(("one", "both"))
            }
            for name, values in verdicts.items()
        },
        "difference": bootstrap.interval(verdicts["retrieved"][:, 1] - verdicts["none"][:, 1]).as_dict(),
    }
    order = np.argsort(-verdicts["retrieved"].sum(1), kind="stable")[: bench.config.evaluate.shown]
    rows = [_row(bench, int(number), asked, found, pixels, looks, verdicts) for number in order]
    return TwoEntities(report=report, rows=rows)


def _retrieved(root: Path, bench: Bench, asked: list[TwoPrompt]) -> dict[str, PromptNeighbors]:
    exclude = [
        (*bench.table.prompts[two.first.prompt_id].exclude, *bench.table.prompts[two.second.prompt_id].exclude)
        for two in asked
    ]
    retriever = pipeline_retriever(root, bench.config)
    hits = retriever.search(Query([two.prompt.text for two in asked], top_k=NEIGHBORS, exclude=exclude)).hits
    return {
        two.prompt.prompt_id: PromptNeighbors(
            exclude=names, retrieved=found.pair_ids, scores=found.scores, parts=found.parts, oracle=(), random=()
        )
        for two, names, found in zip(asked, exclude, hits, strict=True)
    }


def _drawn(root: Path, bench: Bench, asked: list[TwoPrompt], found: dict[str, PromptNeighbors]) -> dict[str, Pixels]:
    retrieval = bench.config.retrieval.model_copy(update={"content": NEIGHBORS})
    drawing = VariantSampler(
        root=root,
        model=root / layout.MODEL,
        config=bench.config.model_copy(update={"retrieval": retrieval}),
        corpus=bench.corpus,
        table=replace(bench.table, prompts=found),
    )
    pixels = {name: drawing.draw(name, [two.prompt for two in asked]).pixels for name in DRAWN}
    left, right = (
        bench.corpus.pixels(real_rows(bench.corpus, prompts))
        for prompts in ([two.first for two in asked], [two.second for two in asked])
    )
    pairs = zip(left, right, strict=True)
    return pixels | {"real": np.stack([collage(first, second) for first, second in pairs])}


def _entities(bench: Bench, found: PromptNeighbors) -> list[tuple[str, str]]:
    """(entity, style) of the retrieved pairs."""
    rows = bench.corpus.table.iloc[bench.corpus.rows(found.retrieved)]
    return list(zip(rows["entity"], rows["style"], strict=True))


def _hidden(bench: Bench, two: TwoPrompt, found: PromptNeighbors) -> frozenset[str]:
    own = {two.first.entity, two.second.entity}
    return frozenset({two.prompt.style, *(style for entity, style in _entities(bench, found) if entity in own)})


def _both(bench: Bench, two: TwoPrompt, found: PromptNeighbors) -> bool:
    return {two.first.entity, two.second.entity} <= {entity for entity, _ in _entities(bench, found)}


def _verdicts(
    prototypes: Prototypes, looks: Looks, asked: list[TwoPrompt], hidden: list[frozenset[str]]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(P, 2): one of them, both."""
    rows = zip(looks.entity, asked, hidden, strict=True)
    return np.array([shown_entities(prototypes, *row) for row in rows], dtype=np.float64)


def _row(
    bench: Bench,
    number: int,
    asked: list[TwoPrompt],
    found: dict[str, PromptNeighbors],
    pixels: Mapping[str, Pixels],
    looks: Mapping[str, Looks],
    verdicts: Mapping[str, np.ndarray[Any, np.dtype[np.float64]]],
) -> PageRow:
    prompt = asked[number].prompt
    style = bench.ruler.styles.index(prompt.style)
    shown = found[prompt.prompt_id].retrieved
    return PageRow(
        prompt=prompt.text,
        asked=f"{with_article(prompt.title)}, {bench.corpus.manifest['style_words'][prompt.style]}",
        neighbors=bench.corpus.pixels(bench.corpus.rows(shown)),
        cells={
            name: Cell(
                pixels=images[number],
                entity=bool(verdicts[name][number, 1]),
                style=bool(looks[name].style[number].argmax() == style),
            )
            for name, images in pixels.items()
        },
    )
