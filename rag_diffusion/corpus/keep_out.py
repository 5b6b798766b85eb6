"""Drawings that look like held-out ones, and what is kept out of training with them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rag_diffusion.corpus.joining import OWN_NAME
from rag_diffusion.corpus.look import look_alikes, upright
from rag_diffusion.corpus.wide_pairs import Rendered, pixels_of
from rag_diffusion.types import Pair

_WHOLE_SHARE = 1 / 3  # of an entity's drawings show held-out ones: then all of them are kept out


def keep_out(rendered: Sequence[Rendered], emoji: Sequence[Pair]) -> list[Rendered]:
    """Give what looks like a held-out drawing the split and the family of that.

    So do the other drawings of an entity many of whose drawings are held out, and near-duplicates of held-out drawings.
    Held-out are drawings of the emoji corpus, and those whose names tell of nothing else: a truck that looks like
    `taco-truck` does not look so for the taco's sake.

    Args:
        rendered: drawings that were added, with the splits that their names gave them.
        emoji: held-out pairs of the emoji corpus.

    Returns:
        The same drawings.
    """
    kept = list(rendered)
    for row, held_out in _look_alikes(rendered, emoji).items():
        kept[row] = _moved(kept[row], held_out, "look")
    for row, held_out in _whole_entities(rendered, kept).items():
        kept[row] = _moved(kept[row], held_out, "entity")
    first = {drawing.pair.duplicate_group: drawing.pair for drawing in reversed(kept) if drawing.pair.split != "train"}
    for row, drawing in enumerate(kept):
        if drawing.pair.split == "train" and drawing.pair.duplicate_group in first:
            kept[row] = _moved(drawing, first[drawing.pair.duplicate_group], "duplicate")
    return kept


def _look_alikes(rendered: Sequence[Rendered], emoji: Sequence[Pair]) -> dict[int, Pair]:
    known = [(upright(pixels_of(pair)), pair) for pair in emoji]
    known += [(drawing.shape, drawing.pair) for drawing in rendered if drawing.alone]
    rows = [row for row, drawing in enumerate(rendered) if drawing.pair.split == "train"]
    if not rows or not known:
        return {}
    shapes = np.stack([rendered[row].shape for row in rows])
    matches = look_alikes(shapes, np.stack([shape for shape, _ in known]))
    return {rows[match.row]: known[match.held_out][1] for match in matches}


def _whole_entities(before: Sequence[Rendered], after: Sequence[Rendered]) -> dict[int, Pair]:
    """Drawings still in training though many others of their entity are not; each with a held-out one of these."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, drawing in enumerate(before):
        rows[drawing.pair.entity].append(row)
    examples: dict[int, Pair] = {}
    for members in rows.values():
        held = [after[row].pair for row in members if after[row].found_by]
        if _WHOLE_SHARE * len(members) <= len(held) < len(members) and len(held) > 1:
            families = Counter(pair.family for pair in held)
            most = max(families, key=lambda family: (families[family], family))
            example = next(pair for pair in held if pair.family == most)
            examples |= {row: example for row in members if after[row].pair.split == "train"}
    return examples


def _moved(drawing: Rendered, held_out: Pair, how: str) -> Rendered:
    pair = drawing.pair
    entity = pair.entity if pair.entity.startswith(OWN_NAME) else OWN_NAME + pair.title.replace(" ", "-")
    pair = replace(pair, entity=entity, family=held_out.family, split=held_out.split)
    return replace(drawing, pair=pair, found_by=f"image, {how}: {held_out.pair_id}")


def split_entities(pairs: Iterable[Pair]) -> list[Pair]:
    """`pairs` of one name in several splits become several entities, so that none stands in two."""
    pairs, splits = list(pairs), defaultdict(set)
    for pair in pairs:
        splits[pair.entity].add(pair.split)
    return [
        _apart(pair)
        if pair.split != "train" and pair.entity.startswith(OWN_NAME) and len(splits[pair.entity]) > 1
        else pair
        for pair in pairs
    ]


def _apart(pair: Pair) -> Pair:
    entity = f"{pair.entity}/{pair.split}"
    return replace(pair, entity=entity, family=entity if pair.family == pair.entity else pair.family)


def taken_out(rendered: Iterable[Rendered]) -> dict[str, Any]:
    """How many of the `rendered` drawings each check kept from training, and their names with what they show."""
    names: dict[str, list[str]] = defaultdict(list)
    for drawing in rendered:
        if drawing.found_by:
            check, _, why = drawing.found_by.partition(", ")
            name = drawing.pair.pair_id.removeprefix("iconify/")
            names[f"held_out_by_{check}"].append(f"{name} ({drawing.pair.split}, {why or drawing.pair.family})")
    counts = {key: len(rows) for key, rows in sorted(names.items())}
    return counts | {"held_out": dict(sorted(names.items()))}
