"""Which parts of the method make a model use its neighbors? Short runs from scratch, one change each.

    python benchmarks/ablations.py [--steps 400] [--widths 32 48 96 96 128] [--only NAME ...]
        [--seed 1] [--train-on ROOT]

Every run has the seed, batches and noise of the others. The measure is the neighbor gain: validation v-loss of entities
never trained on, with no, random and retrieved neighbors on the same noise; it says within minutes what drawings say in
hours.
Finished runs are kept in data/.scratch and not made again. It needs data/corpus and data/neighbors.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rag_diffusion import layout
from rag_diffusion.config import Config, load_config
from rag_diffusion.device import choose_device
from rag_diffusion.files import atomic_write, fingerprint
from rag_diffusion.models.codec import PatchCodec
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.own import build_generator
from rag_diffusion.models.text_encoder import TextFeatures
from rag_diffusion.retrieval.neighbor_table import NeighborTable
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.tracking import NullTracker
from rag_diffusion.training.data import Batches
from rag_diffusion.training.loop import train
from rag_diffusion.training.validation import KINDS, TIMESTEPS, make_probe, neighbor_gain

Lists = Mapping[str, list[str]]


@dataclass(frozen=True)
class Ablation:
    """One change.

    Attributes:
        model, train: settings of params.yaml that differ.
        lists: what training sees as neighbors, out of corpus and the retrieved ones.
        kind: of generator.
        change: what else is done to the new generator.
        count: the most neighbors that training shows; None is `retrieval.content`.
    """

    model: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    lists: Callable[[Corpus, Lists], Lists] | None = None
    kind: type[Generator] = Generator
    change: Callable[[Generator], None] | None = None
    count: int | None = None


def random_lists(corpus: Corpus, retrieved: Lists) -> Lists:
    """Other families' pairs."""
    table = corpus.table.iloc[corpus.rows(sorted(retrieved))]
    family = dict(zip(table["pair_id"], table["family"], strict=True))
    rng, names = np.random.default_rng(0), np.array(sorted(retrieved))
    return {
        name: [str(other) for other in rng.choice(names, 2 * len(hits)) if family[other] != family[name]][: len(hits)]
        for name, hits in retrieved.items()
    }


def oracle_lists(corpus: Corpus, retrieved: Lists) -> Lists:
    """The same entity in other styles; retrieved ones where it has none."""
    table = corpus.table.iloc[corpus.rows(sorted(retrieved))]
    groups = {key: rows["pair_id"].tolist() for key, rows in table.groupby("entity")}
    rows = table.set_index("pair_id")
    lists = {}
    for name, best in retrieved.items():
        own, style, group = rows.loc[name, "entity"], rows.loc[name, "style"], rows.loc[name, "duplicate_group"]
        others = [
            other
            for other in groups[own]
            if rows.loc[other, "style"] != style and rows.loc[other, "duplicate_group"] != group
        ]
        lists[name] = others or list(best)
    return lists


class WithoutText(Generator):
    """Neighbors are encoded with the empty text."""

    def neighbor_maps(self, images: torch.Tensor, captions: TextFeatures) -> dict[str, torch.Tensor]:
        """See `Generator`."""
        empty = self.text_encoder([""])[[0] * len(images)]
        return super().neighbor_maps(images, empty.to(self.device))


class Noised(Generator):
    """Neighbors are encoded as x_t of timestep 300 instead of clean, at t = 0."""

    def neighbor_maps(self, images: torch.Tensor, captions: TextFeatures) -> dict[str, torch.Tensor]:
        """See `Generator`."""
        clean, timestep = self.codec.encode(images.to(self.device)), torch.tensor(300)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(clean)
        sample = self.schedule.add_noise(clean, noise, timestep[None].expand(len(clean)))
        known = self._precondition(timestep)
        found: dict[str, torch.Tensor] = self.unet(
            sample if known is None else sample * known.scale_in,
            timestep.to(self.device),
            captions.states,
            encoder_attention_mask=captions.mask,
            maps_only=True,
        )
        return found


def everywhere(generator: Generator) -> None:
    """No local bias: sigma is far beyond the map and stays there, so that content alone decides who is looked at."""
    for layer in generator.unet.neighbor_attention.values():
        layer.log_sigma.data.fill_(6.0)
        layer.log_sigma.requires_grad_(False)


ABLATIONS = {
    "default": Ablation(),
    "no-neighbor-text": Ablation(kind=WithoutText),
    "neighbors-noised-t300": Ablation(kind=Noised),
    "separate-encoder": Ablation(model={"neighbor_encoder": "separate"}),
    "no-neighbor-gradient": Ablation(train={"neighbor_gradient": False}),
    "bottleneck-only": Ablation(model={"neighbor_skips": []}),
    "bottleneck-and-8px": Ablation(model={"neighbor_skips": [7]}),
    "no-local-bias": Ablation(change=everywhere),
    "one-neighbor": Ablation(count=1),
    "heads-of-16": Ablation(model={"neighbor_head_dim": 16}),
    "trained-on-random": Ablation(lists=random_lists),
    "trained-on-oracle": Ablation(lists=oracle_lists),
    "objective-epsilon": Ablation(train={"objective": "epsilon"}),
    "p2": Ablation(train={"weighting": "p2"}),
    "patches-of-4": Ablation(model={"patch_size": 4, "block_out_channels": [128, 128, 160], "neighbor_skips": [1, 3]}),
    "ema-0.9": Ablation(train={"ema_decay": 0.9}),
    "ema-0.997": Ablation(train={"ema_decay": 0.997}),
    "min-snr": Ablation(train={"weighting": "min_snr"}),
    "moved-apart": Ablation(train={"augment_targets": 1.0, "augment_neighbors": 1.0, "augment_shift": 6}),
    "no-dropout": Ablation(train={"drop_both": 0.0, "drop_text": 0.0, "drop_neighbors": 0.0}),
}


def main() -> None:
    """Run those asked for and print one table."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--steps", type=int, default=400)
    arguments.add_argument("--widths", type=int, nargs="+", default=[32, 48, 96, 96, 128])
    arguments.add_argument("--only", nargs="+", choices=ABLATIONS, default=list(ABLATIONS))
    arguments.add_argument("--seed", type=int, default=0, help="another one says how far chance alone moves a number")
    arguments.add_argument("--root", type=Path, default=Path())
    arguments.add_argument("--train-on", type=Path, help="another project, to train on its corpus; --root validates")
    options = arguments.parse_args()
    config = load_config(options.root / "params.yaml", {"seed": str(options.seed)})
    corpus = Corpus.open(options.root / layout.CORPUS)
    table = NeighborTable.open(options.root / layout.NEIGHBORS, corpus)
    trained = (corpus, table.training) if options.train_on is None else never_validated(options.train_on, corpus)
    rows = {
        name: measured(options.root, config, corpus, table, trained, ABLATIONS[name], options.steps, options.widths)
        for name in options.only
    }
    print(f"\n{options.steps} steps, widths {options.widths}, seed {options.seed}, {len(trained[1])} training pairs")
    print("validation v-loss none / random / retrieved, and the gain")
    for name, row in rows.items():
        losses = "   ".join(
            f"t {t}: "
            + " / ".join(f"{row[f'loss_{kind}_t{t}']:.4f}" for kind in KINDS)
            + f" ({row[f'gain_t{t}']:+.4f})"
            for t in TIMESTEPS
        )
        print(f"{name:24} {losses}   {row['seconds']:.0f} s")
    print(json.dumps(rows))


def never_validated(root: Path, corpus: Corpus) -> tuple[Corpus, Lists]:
    """Another project's corpus and training neighbors, without the entities that are held out in this one's."""
    other = Corpus.open(root / layout.CORPUS)
    held = set(corpus.table.loc[corpus.table["split"] != "train", "family"])
    known = set(other.table.loc[~other.table["family"].isin(held), "pair_id"])
    lists = NeighborTable.open(root / layout.NEIGHBORS, other).training
    kept = {name: [one for one in found if one in known] for name, found in lists.items() if name in known}
    return other, {name: found for name, found in kept.items() if found}


def measured(
    root: Path,
    config: Config,
    corpus: Corpus,
    table: NeighborTable,
    trained: tuple[Corpus, Lists],
    ablation: Ablation,
    steps: int,
    widths: list[int],
) -> dict[str, float]:
    """Neighbor gain at the end of one run, which is only made where its result is not kept."""
    model = config.model.model_copy(update={"block_out_channels": widths, "neighbor_head_dim": 32} | ablation.model)
    settings = config.pretrain.model_copy(
        update={"steps": steps, "validate_every": steps, "checkpoint_every": steps, "ema_decay": 0.99} | ablation.train
    )
    name = next(name for name, one in ABLATIONS.items() if one is ablation)
    facts = {
        "name": name,
        "model": model.model_dump(),
        "train": settings.model_dump(),
        "corpus": trained[0].hash,
        "seed": config.seed,
    }
    folder = root / layout.SCRATCH / "ablations" / fingerprint(facts)
    kept = folder.with_suffix(".json")
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    print(f"{name} ...", flush=True)
    torch.manual_seed(config.seed)
    codec = PatchCodec.fit(trained[0].pixels(trained[0].rows(trained[1])), model.patch_size)
    built = build_generator(model, codec, config.corpus.image_size, choose_device(config.device))
    generator = ablation.kind(**vars(built))
    if ablation.change is not None:
        ablation.change(generator)
    lists = trained[1] if ablation.lists is None else ablation.lists(*trained)
    count = config.retrieval.content
    batches = Batches(trained[0], lists, settings, ablation.count or count, config.seed)
    result = train(generator, batches, settings, seed=config.seed, scratch=folder, tracker=NullTracker())
    probe = make_probe(generator, corpus, table.validation, count, 192, config.seed)
    row = neighbor_gain(result.generator, probe)
    row |= {"seconds": result.seconds}
    atomic_write(kept, json.dumps(row))
    return row


if __name__ == "__main__":
    main()
