"""Two entities in one prompt, a part of stage `evaluate`: does one drawing show both?

The ruler looks at whole drawings, as it does at those of one entity, and ranks all C candidates; both are shown where
they are the first two. Two real drawings side by side in one picture say how well the ruler can tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rag_diffusion import layout
from rag_diffusion.arrays import Doubles, Pixels
from rag_diffusion.corpus.captions import describe
from rag_diffusion.metrics.page import Cell, PageRow
from rag_diffusion.metrics.ruler.entity import MIN_PROTOTYPE_STYLES, Prototypes
from rag_diffusion.metrics.ruler.store import Looks
from rag_diffusion.metrics.scoring import Bench
from rag_diffusion.metrics.variants import real_rows
from rag_diffusion.readers.caption_text import with_article
from rag_diffusion.retrieval.assemble import pipeline_retriever
from rag_diffusion.retrieval.neighbor_table import PromptNeighbors
from rag_diffusion.retrieval.query import Query
from rag_diffusion.sampling.drawing import VariantSampler
from rag_diffusion.types import Prompt

NEIGHBORS = 4  # two of each
TEMPLATES = ("{a_title} in {style} style", "{style} emoji of {a_title}")
_DRAWN = ("none", "retrieved")


@dataclass(frozen=True, kw_only=True)
class TwoPrompt:
    """A prompt of two entities, and the prompts of one that they come from."""

    prompt: Prompt
    first: Prompt
    second: Prompt

    @property
    def entities(self) -> frozenset[str]:
        """Both of them."""
        return frozenset((self.first.entity, self.second.entity))


@dataclass(frozen=True, kw_only=True)
class TwoEntities:
    """What was measured, JSON-able, and rows for the page."""

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
    prompts = two_entity_prompts([prompt for prompt in bench.prompts if prompt.default], words)
    neighbors = _retrieved(root, bench, prompts)
    hidden = [_hidden(bench, two, neighbors[two.prompt.prompt_id]) for two in prompts]
    judged = [number for number, styles in enumerate(hidden) if can_be_judged(prototypes, styles)]
    prompts, hidden = [prompts[number] for number in judged], [hidden[number] for number in judged]
    pixels = _drawn(root, bench, prompts, neighbors)
    looks = {
        name: bench.ruler.look(bench.trunk, images, desc=f"look at two entities, {name}")
        for name, images in pixels.items()
    }
    verdicts = {name: _verdicts(prototypes, seen, prompts, hidden) for name, seen in looks.items()}
    bootstrap = bench.bootstrap_of([two.first for two in prompts])
    of_both = [two.entities <= _entities(bench, neighbors[two.prompt.prompt_id]).keys() for two in prompts]
    report = {
        "num_prompts": len(prompts),
        "neighbors_of_both": float(np.mean(of_both)),
        "variants": {
            name: {
                metric: bootstrap.interval(values[:, column]).as_dict() for column, metric in enumerate(("one", "both"))
            }
            for name, values in verdicts.items()
        },
        "difference": bootstrap.difference(verdicts["retrieved"][:, 1], verdicts["none"][:, 1]).as_dict(),
    }
    order = np.argsort(-verdicts["retrieved"].sum(1), kind="stable")[: bench.config.evaluate.shown]
    rows = [_row(bench, int(number), prompts, neighbors, pixels, looks, verdicts) for number in order]
    return TwoEntities(report=report, rows=rows)


def two_entity_prompts(prompts: Sequence[Prompt], style_words: Mapping[str, str]) -> list[TwoPrompt]:
    """Prompts of the same style, two and two in their order; those of one family are never put together.

    Args:
        prompts: of one entity each.
        style_words: style to how a caption names it.
    """
    waiting: dict[str, Prompt] = {}
    joined: list[TwoPrompt] = []
    for prompt in prompts:
        first = waiting.get(prompt.style)
        if first is None:
            waiting[prompt.style] = prompt
        elif first.family != prompt.family:
            joined.append(_together(waiting.pop(prompt.style), prompt, style_words, len(joined)))
    return joined


def _together(first: Prompt, second: Prompt, style_words: Mapping[str, str], number: int) -> TwoPrompt:
    title = f"{first.title} and {with_article(second.title)}"
    template = TEMPLATES[number % len(TEMPLATES)]
    prompt = replace(
        first,
        prompt_id=f"{first.prompt_id}+{second.prompt_id}",
        entity=f"{first.entity}+{second.entity}",
        title=title,
        kind="two",
        text=describe(template, title=title, style=style_words[first.style], kind=""),
    )
    return TwoPrompt(prompt=prompt, first=first, second=second)


def shown_entities(
    prototypes: Prototypes, features: Doubles, prompt: TwoPrompt, hidden: frozenset[str]
) -> tuple[bool, bool]:
    """Whether a drawing shows either entity (it comes first of all candidates), and both (they are the first two).

    Args:
        prototypes: of the candidates.
        features: (k,) entity features of the drawing.
        prompt: what it was asked to show.
        hidden: styles that give no prototypes.
    """
    order = np.argsort(-prototypes.similarities(features[None], hidden)[0], kind="stable")[:2]
    wanted = {prototypes.number(entity) for entity in prompt.entities}
    return int(order[0]) in wanted, set(order.tolist()) == wanted


def can_be_judged(prototypes: Prototypes, hidden: frozenset[str]) -> bool:
    """Whether enough styles of `prototypes` are left where some are `hidden`."""
    return len(set(prototypes.styles) - hidden) >= MIN_PROTOTYPE_STYLES


def collage(left: Pixels, right: Pixels) -> Pixels:
    """`left` and `right`, both (H, W, 3), at half their size, next to each other on white, (H, W, 3)."""
    height, width = left.shape[:2]
    canvas = Image.new("RGB", (width, height), "white")
    for number, picture in enumerate((left, right)):
        small = Image.fromarray(picture).resize((width // 2, height // 2), Image.Resampling.LANCZOS)
        canvas.paste(small, (number * (width // 2), height // 4))
    return np.asarray(canvas)


def _retrieved(root: Path, bench: Bench, prompts: list[TwoPrompt]) -> dict[str, PromptNeighbors]:
    exclude = [
        (*bench.table.prompts[two.first.prompt_id].exclude, *bench.table.prompts[two.second.prompt_id].exclude)
        for two in prompts
    ]
    retriever = pipeline_retriever(root, bench.config)
    results = retriever.search(Query([two.prompt.text for two in prompts], top_k=NEIGHBORS, exclude=exclude)).hits
    return {
        two.prompt.prompt_id: PromptNeighbors(
            exclude=names, retrieved=hits.pair_ids, scores=hits.scores, parts=hits.parts, oracle=(), random=()
        )
        for two, names, hits in zip(prompts, exclude, results, strict=True)
    }


def _drawn(
    root: Path, bench: Bench, prompts: list[TwoPrompt], neighbors: dict[str, PromptNeighbors]
) -> dict[str, Pixels]:
    retrieval = bench.config.retrieval.model_copy(update={"content": NEIGHBORS})
    drawing = VariantSampler(
        root=root,
        model=root / layout.MODEL,
        config=bench.config.model_copy(update={"retrieval": retrieval}),
        corpus=bench.corpus,
        table=replace(bench.table, prompts=neighbors),
    )
    pixels = {name: drawing.draw(name, [two.prompt for two in prompts]).pixels for name in _DRAWN}
    left = bench.corpus.pixels(real_rows(bench.corpus, [two.first for two in prompts]))
    right = bench.corpus.pixels(real_rows(bench.corpus, [two.second for two in prompts]))
    return pixels | {"real": np.stack([collage(*pair) for pair in zip(left, right, strict=True)])}


def _entities(bench: Bench, neighbors: PromptNeighbors) -> dict[str, set[str]]:
    """Entity -> styles of the retrieved pairs."""
    rows = bench.corpus.rows(neighbors.retrieved)
    styles: dict[str, set[str]] = {}
    for entity, style in zip(bench.corpus.cells("entity", rows), bench.corpus.cells("style", rows), strict=True):
        styles.setdefault(entity, set()).add(style)
    return styles


def _hidden(bench: Bench, two: TwoPrompt, neighbors: PromptNeighbors) -> frozenset[str]:
    """Styles that give no prototypes: that of the prompt, and those in which a neighbor shows one of its entities."""
    styles = _entities(bench, neighbors)
    return frozenset({two.prompt.style}).union(*(styles.get(entity, ()) for entity in two.entities))


def _verdicts(prototypes: Prototypes, looks: Looks, prompts: list[TwoPrompt], hidden: list[frozenset[str]]) -> Doubles:
    """(P, 2): one of them, both."""
    rows = zip(looks.entity, prompts, hidden, strict=True)
    return np.array([shown_entities(prototypes, *row) for row in rows], dtype=np.float64)


def _row(
    bench: Bench,
    number: int,
    prompts: list[TwoPrompt],
    neighbors: dict[str, PromptNeighbors],
    pixels: Mapping[str, Pixels],
    looks: Mapping[str, Looks],
    verdicts: Mapping[str, Doubles],
) -> PageRow:
    prompt = prompts[number].prompt
    style = bench.ruler.styles.index(prompt.style)
    return PageRow(
        prompt=prompt.text,
        target=f"{with_article(prompt.title)}, {bench.corpus.manifest['style_words'][prompt.style]}",
        neighbors=bench.corpus.pixels(bench.corpus.rows(neighbors[prompt.prompt_id].retrieved)),
        cells={
            name: Cell(
                pixels=images[number],
                entity=bool(verdicts[name][number, 1]),
                style=bool(looks[name].style[number].argmax() == style),
            )
            for name, images in pixels.items()
        },
    )
