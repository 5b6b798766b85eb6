"""The wide corpus: the emoji corpus as it is, and the drawings of all other sets of Iconify joined by name.

Nothing that shows a validation or test entity of the emoji corpus has the split `train`, under whichever name.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rag_diffusion.config import IconifyConfig
from rag_diffusion.corpus.duplicates import UnionFind
from rag_diffusion.corpus.icon_sets import Drawing, read_drawings
from rag_diffusion.corpus.iconify import EmojiSources
from rag_diffusion.corpus.joining import OWN_NAME, EmojiEntity, called_names, place, several_hands
from rag_diffusion.corpus.keep_out import keep_out, split_entities, taken_out
from rag_diffusion.corpus.own import read_own
from rag_diffusion.corpus.rendering import in_processes
from rag_diffusion.corpus.wide_pairs import JoinedDrawing, Rendered, render, style_words
from rag_diffusion.corpus.wide_source import SetCard, Tally, WideSource
from rag_diffusion.engine.work import Engine
from rag_diffusion.errors import ConfigError
from rag_diffusion.progress import progress
from rag_diffusion.readers.packages import fetch_package
from rag_diffusion.types import Pair

# Mean squared difference of 16 px thumbnails of two drawings of one entity, their colours left aside:
NEAR_IDENTICAL = 0.002  # one of them is left out
NEAR_DUPLICATE = 0.005  # they are marked as duplicates, so that neither is a neighbor of the other


def extend(
    pairs: Sequence[Pair],
    *,
    sources: EmojiSources,
    config: IconifyConfig,
    root: Path,
    size: int,
    cache: Path,
    engine: Engine | None = None,
) -> tuple[list[Pair], dict[str, Any]]:
    """Add the drawings of other sets to the finished emoji corpus.

    Args:
        pairs: of the emoji corpus, with their splits.
        sources: the emoji sets and what characters are called.
        config: `sets` and `colours`, and where the source list is.
        root: project root.
        size: side of the images in pixels.
        cache: folder for package archives.
        engine: whose workers render; None renders here.

    Returns:
        The pairs that were given, unchanged, with those of the other sets; and facts for the manifest.

    Raises:
        DataError: the package cannot be had, or a set that was asked for is not in it or may not be used.
    """
    source, tally = WideSource.read(root / config.wide_sources), Tally()
    drawings, cards = _drawings(source, config, root, cache, tally)
    known = {pair.entity: EmojiEntity(title=pair.title, family=pair.family, split=pair.split) for pair in pairs}
    called = called_names(known, sources.sets, sources.annotations, source.synonyms)
    own = config.own.style if config.own.path else ""
    placed = several_hands(place(drawings, known, called, source.weak_words, own), cards, source, own, tally)
    rendered = _near_identical(_rendered(placed, cards, size, source, config, tally, engine), own, tally)
    rendered = keep_out(rendered, [pair for pair in pairs if pair.split != "train"])
    facts = {
        "aligned_styles": sorted(sources.sets),
        "style_words": {style: icon_set.words for style, icon_set in sources.sets.items()}
        | {joined.drawing.style: style_words(cards[joined.drawing.prefix], joined.drawing) for joined in placed},
        "wide": {
            "package": f"{source.package.name}@{source.package.version}",
            "rejected_by_reason": dict(tally.counts.most_common()),
            "examples": dict(tally.examples),
        }
        | taken_out(rendered),
    }
    return [*pairs, *split_entities([drawing.pair for drawing in rendered])], facts


def _drawings(
    source: WideSource, config: IconifyConfig, root: Path, cache: Path, tally: Tally
) -> tuple[list[Drawing], dict[str, SetCard]]:
    """Drawings of the package and of one's own folder, and whose they are."""
    drawings: list[Drawing] = []
    cards: dict[str, SetCard] = {}
    if config.sets != "emoji":
        prefixes = () if config.sets == "wide" else tuple(config.sets)
        drawings, cards = read_drawings(source, fetch_package(source.package, cache), prefixes, tally)
    if config.own.path:
        mine, card = read_own(config.own, root, tally)
        if config.own.style in {drawing.style for drawing in drawings} | set(cards):
            raise ConfigError(f"corpus.iconify.own.style: expected a name that no set has, got {config.own.style!r}")
        drawings, cards = [*drawings, *mine], cards | {config.own.style: card}
    return drawings, cards


def _rendered(
    placed: Sequence[JoinedDrawing],
    cards: Mapping[str, SetCard],
    size: int,
    source: WideSource,
    config: IconifyConfig,
    tally: Tally,
    engine: Engine | None,
) -> list[Rendered]:
    rendered = []
    function = partial(render, size=size, colours=source.colours, how=config.colours)
    results = in_processes(function, [(joined, cards[joined.drawing.prefix]) for joined in placed], engine)
    for joined, result in zip(placed, progress(results, total=len(placed), desc="rendering", unit="img"), strict=True):
        if isinstance(result, Rendered):
            rendered.append(result)
        else:
            tally.add(joined.drawing.where, result)
    return rendered


def _near_identical(rendered: Sequence[Rendered], own: str, tally: Tally) -> list[Rendered]:
    """Leave out all but one of the near-identical drawings of an entity, mark near-duplicates, drop lonely ones."""
    groups: dict[tuple[str, bool], list[Rendered]] = defaultdict(list)
    for drawing in rendered:
        groups[drawing.pair.entity, drawing.monochrome].append(drawing)
    kept: list[Rendered] = []
    duplicates = UnionFind(
        name for drawing in rendered for name in (drawing.pair.pair_id, drawing.pair.duplicate_group)
    )
    for group in groups.values():
        pixels = [drawing.ink if drawing.monochrome else drawing.colours for drawing in group]
        vectors = np.stack(pixels).astype(np.float32) / 255
        chosen: list[int] = []
        for row, drawing in enumerate(group):
            pair = drawing.pair
            differences = np.square(vectors[chosen] - vectors[row]).mean(axis=1)
            if (differences < NEAR_IDENTICAL).any() and pair.style != own:
                tally.add(pair.pair_id, "near-identical drawing of the same entity")
                continue
            duplicates.join(pair.pair_id, pair.duplicate_group)
            for other in np.flatnonzero(differences < NEAR_DUPLICATE):
                duplicates.join(pair.pair_id, group[chosen[other]].pair.pair_id)
            chosen.append(row)
        kept += [group[row] for row in chosen]
    count = Counter(drawing.pair.entity for drawing in kept)
    kept = [drawing for drawing in kept if not _lonely(drawing.pair, count, own, tally)]
    kept.sort(key=lambda drawing: drawing.pair.pair_id)
    return [replace(drawing, pair=_grouped(drawing.pair, duplicates)) for drawing in kept]


def _grouped(pair: Pair, duplicates: UnionFind) -> Pair:
    return replace(pair, duplicate_group=duplicates.find(pair.pair_id))


def _lonely(pair: Pair, count: Counter[str], own: str, tally: Tally) -> bool:
    if count[pair.entity] > 1 or pair.style == own or not pair.entity.startswith(OWN_NAME):
        return False
    tally.add(pair.pair_id, "name with too few drawings")
    return True
