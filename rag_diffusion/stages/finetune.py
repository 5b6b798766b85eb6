"""Stage `finetune`: continue a base generator on the configured corpus, with neighbors.

The base is a folder of this project, or a published pipeline of diffusers by folder or hub name. By one process or,
started with `accelerate launch -m rag_diffusion run finetune`, several: see `training.processes`.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch

from rag_diffusion import layout
from rag_diffusion.config import FinetuneConfig
from rag_diffusion.errors import LineageError, ModelError
from rag_diffusion.files import code_hash, tree_hash
from rag_diffusion.metrics.validation_scores import ValidationScores
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.load import load_generator
from rag_diffusion.models.own import SPEC
from rag_diffusion.models.trainable import train_parts
from rag_diffusion.models.unet import RetrievalUNet
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.retrieval.neighbor_table import NeighborTable
from rag_diffusion.sampling.cascade_folder import project_stages
from rag_diffusion.sampling.cascade_stages import CascadeStage
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.training.card import CARD, brief, card_of_published, read_card, refuse_seen
from rag_diffusion.training.processes import open_accelerator
from rag_diffusion.training.stage import run_training, save_model, write_losses

_LOG = logging.getLogger(__name__)

SEVERAL_PROCESSES = True  # it may be started by a launcher, see `training.processes`


def run(ctx: StageContext) -> None:
    """Write data/model and reports/plots/loss.csv."""
    config = ctx.config.finetune
    accelerator = open_accelerator(ctx.config.device)
    corpus = Corpus.open(ctx.root / layout.CORPUS)
    table = NeighborTable.open(ctx.root / layout.NEIGHBORS, corpus)
    base: Path | str = ctx.root / config.base if (ctx.root / config.base).exists() else config.base
    card = _base_card(base, config.base)
    refuse_seen(card, corpus, config.base)
    generator = _load(base, config, corpus.image_size, accelerator.device)
    stages, stage_cards = _cascade(ctx.root, config.cascade, generator, corpus)
    torch.manual_seed(ctx.config.seed)  # of new adapters
    train_parts(generator.unet, config.trainable, config.lora_rank)
    base_hash = tree_hash(base) if isinstance(base, Path) else base
    ctx.tracker.log_dataset("base", base_hash, config.base)
    result, card = run_training(
        ctx,
        "finetune",
        generator,
        config,
        corpus,
        table,
        accelerator,
        fingerprint_of={"base": base_hash, "code": code_hash("models", "training")},
        base=card,
        score=ValidationScores(ctx.root, ctx.config, ctx.tracker, "finetune") if config.score_every else None,
    )
    if accelerator.is_main_process:
        write_losses(ctx.root / layout.REPORTS / "plots" / "loss.csv", result)
        save_model(ctx.root / layout.MODEL, result.generator, card | {"stages": stage_cards}, stages)


def _cascade(
    root: Path, name: str, generator: Generator, corpus: Corpus
) -> tuple[list[CascadeStage], list[dict[str, Any]]]:
    """The super-resolution stages that follow, and what is said of them; weights that have seen too much do not."""
    stages = project_stages(root, name, generator)
    if not stages:
        return [], []
    place = layout.UPSAMPLER if name == "auto" else name
    card = _base_card(root / place if (root / place).exists() else place, place)
    try:
        refuse_seen(card, corpus, place)
    except LineageError as error:
        if name != "auto":
            raise
        _LOG.warning("pictures stay at %d px: %s", generator.image_size, error)
        return [], []
    return stages, [brief(card)]


def _base_card(base: Path | str, name: str) -> dict[str, Any]:
    """The base's card; a published pipeline without one is told from a damaged folder of ours."""
    if not isinstance(base, Path) or (not (base / CARD).exists() and (base / "model_index.json").exists()):
        warnings.warn(
            f"{name}: nobody knows what this base was trained on, and it may have seen the entities of the test split; "
            "its scores there are not those of unseen entities",
            stacklevel=2,
        )
        return card_of_published(name)
    return read_card(base)


def _load(base: Path | str, config: FinetuneConfig, image_size: int, device: torch.device) -> Generator:
    options: dict[str, Any] = {"neighbor_prior_strength": config.neighbor_prior_strength}
    if not (Path(base) / SPEC).exists() and not _has_neighbor_attention(base):
        options["neighbor_skips"] = tuple(config.neighbor_skips)
        options["neighbor_free_heads"] = config.neighbor_free_heads
    generator = load_generator(base, device, **options)
    if generator.image_size != image_size:
        raise ModelError(
            f"{config.base}: expected a base for {image_size} px images, got one for {generator.image_size} px; "
            "set corpus.image_size to that, or finetune.base to another base"
        )
    return generator


def _has_neighbor_attention(base: Path | str) -> bool:
    try:
        return "neighbor_skips" in RetrievalUNet.load_config(base, subfolder="unet")
    except (OSError, ValueError):
        return False  # `load_generator` says what is wrong
