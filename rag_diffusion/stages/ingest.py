"""Stage `ingest`: source -> pairs -> families, splits, duplicates -> parquet shards and a manifest."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rag_diffusion import layout
from rag_diffusion.config import CorpusConfig
from rag_diffusion.corpus import folder, iconify, wide
from rag_diffusion.corpus.build import MorePairs, build_corpus
from rag_diffusion.engine.work import Engine, open_engine
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.store.kept_items import KeptItems

_LOG = logging.getLogger(__name__)


def run(ctx: StageContext) -> None:
    """Write data/corpus."""
    config, engine = ctx.config.corpus, open_engine(ctx.config)
    more: MorePairs | None = None
    if config.source == "iconify":
        cache = ctx.root / layout.SCRATCH / "packages"
        sources = iconify.load_sources(ctx.root / config.iconify.sources, cache)
        pairs, facts = iconify.load_pairs(config.iconify, sources, config.image_size, engine)
        if config.iconify.sets != "emoji" or config.iconify.own.path:
            more = partial(
                wide.extend,
                sources=sources,
                config=config.iconify,
                root=ctx.root,
                size=config.image_size,
                cache=cache,
                engine=engine,
            )
        manifest = build_corpus(ctx.root / layout.CORPUS, pairs, config, facts, more)
    else:
        manifest = _ingest_folder(ctx.root, config, engine)
    _report(ctx, manifest)


def _ingest_folder(root: Path, config: CorpusConfig, engine: Engine | None) -> dict[str, Any]:
    """A corpus of a user's own images, with these as they came."""
    path, scratch = root / layout.CORPUS, root / layout.SCRATCH
    scratch.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=scratch) as beside:
        kept = KeptItems(Path(beside)) if config.folder.originals else None
        pairs, facts = folder.load_pairs(config.folder, root, config.image_size, kept, engine)
        return build_corpus(path, pairs, config, facts, kept=kept)


def _report(ctx: StageContext, manifest: dict[str, Any]) -> None:
    splits, wide_facts = manifest["counts"]["split"], manifest.get("wide", {})
    ctx.tracker.log_dataset("corpus", manifest["hash"], layout.CORPUS)
    ctx.tracker.log_metrics(
        {
            "num_pairs": manifest["num_pairs"],
            "num_entities": manifest["num_entities"],
            "num_rejected": manifest["num_rejected"],
            "num_duplicates": manifest.get("num_duplicates", 0),
        }
        | {f"num_{name}": count for name, count in splits.items()}
        | {f"num_{name}": count for name, count in wide_facts.items() if name.startswith("held_out_by_")}
    )
    ctx.tracker.log_artifact(ctx.root / layout.CORPUS / "manifest.json")
    _LOG.info(
        f"{manifest['num_pairs']} pairs of {manifest['num_entities']} entities in {manifest['num_families']} families "
        f"({', '.join(f'{name} {count}' for name, count in splits.items())}), {manifest['num_rejected']} rejected"
    )
    for name, count in wide_facts.items():
        if name.startswith("held_out_by_"):
            _LOG.info("  %s: %d drawings", name.replace("_", " "), count)
    for sentence in manifest.get("doubts", ()):
        _LOG.warning("  warning: %s", sentence)
    if manifest["num_rejected"]:
        _LOG.info("  each of them with its reason: rag-diffusion kb info corpus --rejected")
    for reason, count in sorted(manifest["rejected_by_reason"].items(), key=lambda item: -item[1])[:5]:
        _LOG.info("  rejected %d: %s", count, reason)
