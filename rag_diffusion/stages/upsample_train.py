"""Stage `upsample_train` (pipelines/upsample): the super-resolution stage, on crops of the train split's drawings.

What it is given is what the corpus has; what it is to draw is rendered from the corpus' originals.
"""

from __future__ import annotations

import logging

import numpy as np
import torch

from rag_diffusion import layout
from rag_diffusion.arrays import Ints
from rag_diffusion.config import UpsampleTrainConfig
from rag_diffusion.errors import ConfigError
from rag_diffusion.files import atomic_dir, fingerprint
from rag_diffusion.models.codec import pixels_to_images
from rag_diffusion.models.detail_codec import DetailCodec
from rag_diffusion.models.neighbor_batch import NeighborBatch
from rag_diffusion.models.super_resolution import build_upsampler, save_upsampler
from rag_diffusion.pipeline.context import StageContext
from rag_diffusion.retrieval.neighbor_table import NeighborTable
from rag_diffusion.sampling.samples import pictures_at
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.training.card import make_card, write_card
from rag_diffusion.training.processes import open_accelerator
from rag_diffusion.training.upsample import UpsampleProbe, train_upsampler
from rag_diffusion.training.upsample_data import CropBatches, as_batch, fitting_pairs, rendered

_LOG = logging.getLogger(__name__)

_PROBE_SIZE = 16
_LENGTH = {"steps", "max_minutes", "checkpoint_every", "validate_every"}  # a run may be prolonged


def run(ctx: StageContext) -> None:
    """Write pipelines/upsample/result; `rag-diffusion base promote-upsampler` copies it to data/upsampler."""
    config, seed = ctx.config.upsample, ctx.config.seed
    corpus = Corpus.open(ctx.root / layout.CORPUS)
    _check_sizes(corpus, config)
    split = corpus.column("split")
    train, validation = np.flatnonzero(split == "train"), np.flatnonzero(split == "validation")
    chosen = validation[np.random.default_rng(seed).permutation(len(validation))[:_PROBE_SIZE]]
    size, scratch = config.model.image_size, ctx.root / layout.SCRATCH
    high = rendered(corpus, train, size, scratch / f"rendered-{fingerprint({'of': corpus.hash, 'size': size})}")
    probe_name = f"rendered-{fingerprint({'of': corpus.hash, 'size': size, 'probe': chosen.tolist()})}"
    table = NeighborTable.open(ctx.root / layout.NEIGHBORS, corpus) if config.num_neighbors else None
    probe = UpsampleProbe(
        low=corpus.pixels(chosen),
        high=rendered(corpus, chosen, size, scratch / probe_name),
        captions=tuple(corpus.cells("caption", chosen)),
        neighbors=None if table is None else _probe_neighbors(corpus, table, chosen, config),
    )
    low, captions = corpus.pixels(train), corpus.cells("caption", train)
    accelerator = open_accelerator(ctx.config.device)
    torch.manual_seed(seed)
    codec = DetailCodec.fit(fitting_pairs(low, high, seed), config.model.patch_size)
    stage = build_upsampler(config.model, codec, accelerator.device, config.num_neighbors)
    facts = {"corpus": corpus.hash, "seed": seed} | config.model_dump(exclude=_LENGTH)
    ctx.tracker.log_dataset("corpus", corpus.hash, layout.CORPUS)
    result = train_upsampler(
        stage,
        CropBatches(low, high, captions, config, seed, None if table is None else _candidates(corpus, table, train)),
        config,
        seed=seed,
        scratch=scratch / f"upsample-{fingerprint(facts)}",
        tracker=ctx.tracker,
        probe=probe,
        accelerator=accelerator,
    )
    settings = {"upsample": config.model_dump(), "seed": seed}
    card = make_card(corpus, corpus.ids(train), result, settings)
    card["upsampling_errors"] = card.pop("neighbor_gain")
    with atomic_dir(ctx.root / layout.UPSAMPLER_TRAINED) as beside:
        save_upsampler(stage, beside)
        write_card(beside, card)
    _LOG.info("%d crops in %.0f min -> %s", result.images_seen, result.seconds / 60, layout.UPSAMPLER_TRAINED)


def _candidates(corpus: Corpus, table: NeighborTable, train: Ints) -> list[Ints]:
    """Of each train row the places of its neighbors in `train`, best first."""
    place = {pair_id: number for number, pair_id in enumerate(corpus.ids(train))}
    return [
        np.array([place[name] for name in table.training.get(pair_id, ()) if name in place], dtype=np.int64)
        for pair_id in place
    ]


def _probe_neighbors(
    corpus: Corpus, table: NeighborTable, rows: Ints, config: UpsampleTrainConfig
) -> NeighborBatch | None:
    lists = [list(table.validation.get(name, ()))[: config.num_neighbors] for name in corpus.ids(rows)]
    names = [name for chosen in lists for name in chosen]
    pixels = [np.asarray(picture) for picture in pictures_at(corpus, names, config.model.image_size)]
    images = [pixels_to_images(torch.from_numpy(np.stack(pixels)))] if pixels else []
    return as_batch(images, tuple(corpus.cells("caption", corpus.rows(names))), [len(chosen) for chosen in lists])


def _check_sizes(corpus: Corpus, config: UpsampleTrainConfig) -> None:
    if corpus.image_size != config.model.low_size:
        raise ConfigError(
            f"upsample.model.low_size: expected the corpus' image_size {corpus.image_size}, got "
            f"{config.model.low_size}; set one as the other"
        )
