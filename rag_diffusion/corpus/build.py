"""Pairs of a source as the corpus: families, splits, duplicates, shards and a manifest."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rag_diffusion.arrays import Pixels
from rag_diffusion.config import CorpusConfig
from rag_diffusion.corpus.duplicates import duplicate_groups
from rag_diffusion.corpus.split import assign_splits, families, named_splits, styles_per_entity
from rag_diffusion.store.corpus import write_corpus
from rag_diffusion.store.kept_items import KeptItems
from rag_diffusion.types import Pair

MorePairs = Callable[[list[Pair]], tuple[list[Pair], dict[str, Any]]]


def build_corpus(
    path: Path,
    pairs: list[Pair],
    config: CorpusConfig,
    facts: dict[str, Any],
    more: MorePairs | None = None,
    kept: KeptItems | None = None,
) -> dict[str, Any]:
    """Split pairs by family, mark duplicates, add more pairs to the finished ones, write the corpus.

    Args:
        path: folder to make or to replace.
        pairs: without family and duplicate group; with the split that their source names, empty where it names none.
        config: how they are split.
        facts: entries for the manifest.
        more: gives finished pairs, theirs and those that it adds, with entries for the manifest.
        kept: the files that the pairs were made of; None keeps none beside them.

    Returns:
        The manifest.
    """
    pairs = sorted(pairs, key=lambda pair: pair.pair_id)
    pixels = _pixels(pairs)
    entities, styles = [pair.entity for pair in pairs], [pair.style for pair in pairs]
    facts, read_doubts = dict(facts), facts.get("doubts", ())
    if pairs:
        family_of = families(entities, styles, pixels)
        groups = duplicate_groups([pair.pair_id for pair in pairs], entities, pixels, config.duplicate_threshold)
        family_of = _join_duplicates(family_of, entities, groups)
        num_styles = styles_per_entity(entities, styles)
        named, doubts = named_splits([family_of[name] for name in entities], [pair.split for pair in pairs])
        splits, salt = assign_splits(
            family_of, num_styles, config.split, enforce=config.source == "iconify", named=named
        )
        pairs = [
            replace(pair, family=family_of[pair.entity], split=splits[pair.entity], duplicate_group=group)
            for pair, group in zip(pairs, groups, strict=True)
        ]
        if doubts:
            facts["doubts"] = [*facts.get("doubts", ()), *doubts]
        facts |= {"split_salt": salt, "num_duplicates": len(pairs) - len(set(groups))}
    if more is not None:
        pairs, added = more(pairs)
        facts |= added
    facts["kind"] = config.source
    reasons = Counter(row["reason"].split(":")[0] for row in facts["rejected"])
    more_reasons = Counter(facts.get("wide", {}).get("rejected_by_reason", {}))
    facts["num_rejected"] = reasons.total() + more_reasons.total()
    facts["rejected_by_reason"] = dict(reasons + more_reasons)
    originals = None if kept is None else partial(kept.move, doubts=read_doubts)
    return write_corpus(path, pairs, image_size=config.image_size, facts=facts, originals=originals)


def _join_duplicates(family_of: dict[str, str], entities: list[str], groups: list[str]) -> dict[str, str]:
    """Families that share a duplicate become one: a duplicate must not stand on the other side of the split."""
    joined = dict(family_of)
    first: dict[str, str] = {}
    for entity, group in zip(entities, groups, strict=True):
        other = first.setdefault(group, entity)
        a, b = joined[entity], joined[other]
        if a != b:
            low, high = min(a, b), max(a, b)
            joined = {name: low if family == high else family for name, family in joined.items()}
    return joined


def _pixels(pairs: list[Pair]) -> Pixels:
    return (
        np.stack([np.asarray(Image.open(io.BytesIO(pair.image)).convert("RGB")) for pair in pairs])
        if pairs
        else (np.empty((0, 1, 1, 3), dtype=np.uint8))
    )
