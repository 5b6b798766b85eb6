"""Stage `clips` (pipelines/clips): animated emoji as frames with captions, split as the corpus splits."""

from __future__ import annotations

import logging

from rag_diffusion import layout
from rag_diffusion.corpus.clips import ClipSource, load_clips, manifest_facts
from rag_diffusion.corpus.iconify import load_annotations
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.store.clips import write_clips
from rag_diffusion.store.corpus import Corpus

_LOG = logging.getLogger(__name__)


def run(ctx: StageContext) -> None:
    """Write pipelines/clips/corpus."""
    config = ctx.config
    corpus = Corpus.open(ctx.root / layout.CORPUS)
    cache = ctx.root / layout.SCRATCH / "packages"
    annotations = load_annotations(ctx.root / config.corpus.iconify.sources, cache)
    source = ClipSource.read(ctx.root / config.clips.sources)
    clips, frames, rejected = load_clips(config.clips, source, annotations, corpus, config.corpus.split, cache)
    facts = manifest_facts(source, rejected) | {"corpus": corpus.hash}
    manifest = write_clips(ctx.root / layout.CLIPS, clips, frames, facts=facts)
    counts = manifest["counts"]
    ctx.tracker.log_dataset("clips", manifest["hash"], layout.CLIPS)
    ctx.tracker.log_metrics({"num_clips": len(clips), "num_frames": manifest["num_frames"]} | counts)
    _LOG.info("%d clips of %d families: %s", len(clips), manifest["num_families"], counts)
    for reason, count in sorted(manifest["rejected_by_reason"].items(), key=lambda item: -item[1]):
        _LOG.info("  rejected %d: %s", count, reason)
