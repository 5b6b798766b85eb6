"""Stage `finetune`: continue the base generator on the configured corpus, with neighbors."""

from __future__ import annotations

from rag_diffusion import layout
from rag_diffusion.corpus.store import Corpus
from rag_diffusion.device import choose_device
from rag_diffusion.errors import ModelError
from rag_diffusion.files import tree_hash
from rag_diffusion.models.load import load_generator
from rag_diffusion.retrieval.neighbors import NeighborTable
from rag_diffusion.stages.context import StageContext
from rag_diffusion.stages.training import run_training, save_model, write_losses
from rag_diffusion.training.card import read_card, refuse_seen


def run(ctx: StageContext) -> None:
    """Write data/model and reports/plots/loss.csv."""
    config = ctx.config
    corpus = Corpus.open(ctx.root / layout.CORPUS)
    table = NeighborTable.open(ctx.root / layout.NEIGHBORS, corpus)
    base = ctx.root / config.finetune.base
    base_card = read_card(base)
    refuse_seen(base_card, corpus, config.finetune.base)
    generator = load_generator(base, choose_device(config.device))
    if generator.image_size != corpus.image_size:
        raise ModelError(
            f"{config.finetune.base}: expected a base for {corpus.image_size} px images, got one for "
            f"{generator.image_size} px; "
            "set corpus.image_size to that, or finetune.base to another base"
        )
    ctx.tracker.log_dataset("base", tree_hash(base), config.finetune.base)
    facts = {"base": tree_hash(base)}
    result, card = run_training(
        ctx,
        "finetune",
        generator,
        config.finetune,
        corpus,
        table,
        fingerprint_of=facts,
        base=base_card,
    )
    write_losses(ctx.root / layout.REPORTS / "plots" / "loss.csv", result)
    save_model(ctx.root / layout.MODEL, result.generator, card)
