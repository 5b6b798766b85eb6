"""Stage `ingest`: source -> pairs -> families, splits, duplicates -> parquet shards and a manifest."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rag_diffusion import layout
from rag_diffusion.config import CorpusConfig
from rag_diffusion.corpus import folder, iconify
from rag_diffusion.corpus.duplicates import duplicate_groups
from rag_diffusion.corpus.split import assign_splits, families, styles_per_entity
from rag_diffusion.corpus.store import write_corpus
from rag_diffusion.stages.context import StageContext
from rag_diffusion.types import Pair


def run(ctx: StageContext) -> None:
    """Write data/corpus."""
    config = ctx.config.corpus
    if config.source == "iconify":
        cache = ctx.root / layout.SCRATCH / "packages"
        pairs, facts = iconify.load_pairs(config.iconify, ctx.root, config.image_size, cache)
    else:
        pairs, facts = folder.load_pairs(config.folder, ctx.root, config.image_size)
    manifest = build_corpus(ctx.root / layout.CORPUS, pairs, config, facts)
    _report(ctx, manifest)


def build_corpus(path: Path, pairs: list[Pair], config: CorpusConfig, facts: dict[str, Any]) -> dict[str, Any]:
    """Split pairs by family, mark duplicates, write the corpus; returns the manifest."""
    pairs = sorted(pairs, key=lambda pair: pair.pair_id)
    pixels = _pixels(pairs)
    entities, styles = [pair.entity for pair in pairs], [pair.style for pair in pairs]
    facts = dict(facts)
    if pairs:
        family_of = families(entities, styles, pixels)
        groups = duplicate_groups([pair.pair_id for pair in pairs], entities, pixels, config.duplicate_threshold)
        family_of = _join_duplicates(family_of, entities, groups)
        num_styles = styles_per_entity(entities, styles)
        splits, salt = assign_splits(family_of, num_styles, config.split, enforce=config.source == "iconify")
        pairs = [
            replace(
                pair,
                family=family_of[pair.entity],
                split=splits[pair.entity],
                duplicate_group=group,
            )
            for pair, group in zip(pairs, groups, strict=True)
        ]
        facts |= {"split_salt": salt, "num_duplicates": len(pairs) - len(set(groups))}
    facts["kind"] = config.source
    facts["num_rejected"] = len(facts["rejected"])
    facts["rejected_by_reason"] = dict(Counter(row["reason"].split(":")[0] for row in facts["rejected"]))
    return write_corpus(path, pairs, image_size=config.image_size, facts=facts)


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


def _pixels(pairs: list[Pair]) -> NDArray[np.uint8]:
    return (
        np.stack([np.asarray(Image.open(io.BytesIO(pair.image)).convert("RGB")) for pair in pairs])
        if pairs
        else (np.empty((0, 1, 1, 3), dtype=np.uint8))
    )


def _report(ctx: StageContext, manifest: dict[str, Any]) -> None:
    splits = manifest["counts"]["split"]
    ctx.tracker.log_dataset("corpus", manifest["hash"], layout.CORPUS)
    ctx.tracker.log_metrics(
        {
            "num_pairs": manifest["num_pairs"],
            "num_entities": manifest["num_entities"],
            "num_rejected": manifest["num_rejected"],
            "num_duplicates": manifest.get("num_duplicates", 0),
        }
        | {f"num_{name}": count for name, count in splits.items()}
    )
    ctx.tracker.log_artifact(ctx.root / layout.CORPUS / "manifest.json")
    print(
        f"{manifest['num_pairs']} pairs of {manifest['num_entities']} entities in {manifest['num_families']} families "
        f"({', '.join(f'{name} {count}' for name, count in splits.items())}), {manifest['num_rejected']} rejected"
    )
    for sentence in manifest.get("doubts", ()):
        print(f"  warning: {sentence}")
    if manifest["num_rejected"]:
        print("  each of them with its reason: rag-diffusion kb info corpus --rejected")
    for reason, count in sorted(manifest["rejected_by_reason"].items(), key=lambda item: -item[1])[:5]:
        print(f"  rejected {count}: {reason}")
