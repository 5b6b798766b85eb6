"""Stage `ruler` (pipelines/ruler): train the scorers of entity and style once, before any generator exists."""

from __future__ import annotations

import logging

from rag_diffusion.files import atomic_dir
from rag_diffusion.layout import CORPUS, RULER_TRAINED, SCRATCH
from rag_diffusion.metrics.ruler.fit import fit_scorers, make_card, validate
from rag_diffusion.metrics.ruler.store import save_ruler
from rag_diffusion.metrics.ruler.trunk import Trunk
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.store.corpus import Corpus

_LOG = logging.getLogger(__name__)


def run(ctx: StageContext) -> None:
    """Make pipelines/ruler/result; `rag-diffusion ruler promote` then puts it into data/ruler.

    Raises:
        DataError: the corpus has one style only.
    """
    corpus = Corpus.open(ctx.root / CORPUS)
    trunk = Trunk()
    seed = ctx.config.seed
    scratch = ctx.root / SCRATCH / "ruler"
    scorers = fit_scorers(corpus, trunk, seed=seed, scratch=scratch)
    accuracies = validate(scorers, corpus, trunk, seed=seed, scratch=scratch)
    with atomic_dir(ctx.root / RULER_TRAINED) as folder:
        save_ruler(
            folder, style=scorers.style, entity=scorers.entity, style_check=scorers.style_check,
            card=make_card(scorers, corpus, trunk, accuracies, seed=seed),
        )  # fmt: skip
    ctx.tracker.log_dataset("corpus", corpus.hash, CORPUS)
    for name, parts in accuracies.items():
        ctx.tracker.log_metrics({f"validation.{name.replace(' ', '_')}.{part}": value for part, value in parts.items()})
    ctx.tracker.log_artifact(ctx.root / RULER_TRAINED, "ruler")
    for name, parts in accuracies.items():
        _LOG.info("%-12s %s", name, "  ".join(f"{part} {value:.3f}" for part, value in parts.items()))
