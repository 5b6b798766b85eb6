"""Neighbor gain: validation loss with no, random and retrieved neighbors on the same noise at fixed timesteps.

The early signal of whether a model uses its neighbors: `none` and `random` above `retrieved`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rag_diffusion.corpus.store import Corpus
from rag_diffusion.models.codec import pixels_to_images
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_batch import NeighborBatch
from rag_diffusion.models.text_encoder import TextFeatures
from rag_diffusion.training.objective import add_noise, weighted_loss

TIMESTEPS = (600, 850, 950)
KINDS = ("none", "random", "retrieved")


@dataclass(frozen=True, kw_only=True)
class GainProbe:
    """A fixed set of validation pairs with their three kinds of neighbors."""

    images: torch.Tensor
    captions: TextFeatures
    neighbors: dict[str, NeighborBatch]
    neighbor_captions: dict[str, TextFeatures]


def make_probe(
    generator: Generator,
    corpus: Corpus,
    neighbors: Mapping[str, Sequence[str]],
    num_neighbors: int,
    size: int,
    seed: int,
) -> GainProbe:
    """Choose validation pairs and neighbors, always the same for a seed."""
    rng = np.random.default_rng(seed)
    names = sorted(neighbors)
    chosen = [names[number] for number in rng.permutation(len(names))[:size]]
    families = dict(zip(corpus.table["pair_id"], corpus.table["family"], strict=True))
    train = corpus.table.loc[corpus.table["split"] == "train", "pair_id"].tolist()
    others = {
        name: [pair for pair in rng.permutation(train)[: 8 * num_neighbors] if families[pair] != families[name]]
        for name in chosen
    }
    lists = {
        "none": [[] for _ in chosen],
        "random": [others[name][:num_neighbors] for name in chosen],
        "retrieved": [list(neighbors[name][:num_neighbors]) for name in chosen],
    }
    batches = {kind: NeighborBatch.gather(corpus, rows) for kind, rows in lists.items()}
    encode = generator.text_encoder
    rows = corpus.rows(chosen)
    return GainProbe(
        images=pixels_to_images(torch.from_numpy(corpus.pixels(rows))),
        captions=encode(corpus.table["caption"].iloc[rows].tolist()),
        neighbors=batches,
        neighbor_captions={kind: encode(list(batch.captions)) for kind, batch in batches.items() if batch.captions},
    )


@torch.inference_mode()
def neighbor_gain(generator: Generator, probe: GainProbe) -> dict[str, float]:
    """Validation v-loss: `loss_<kind>_t<timestep>`, and `gain_t<timestep>` = none - retrieved."""
    device, schedule = generator.device, generator.schedule
    clean = generator.codec.encode(probe.images.to(device))
    text = probe.captions.to(device)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(device)
    losses: dict[str, float] = {}
    for kind in KINDS:
        features = None
        if kind in probe.neighbor_captions:
            captions = probe.neighbor_captions[kind].to(device)
            features = generator.neighbor_features(probe.neighbors[kind], captions)
        for timestep in TIMESTEPS:
            noised = add_noise(schedule, clean, noise, torch.full((len(clean),), timestep, device=device))
            output = generator.predict(noised.sample, noised.timesteps, text, features)
            error = weighted_loss(generator.prediction_type, output, noised)
            losses[f"loss_{kind}_t{timestep}"] = float(error.mean())
    return losses | {f"gain_t{t}": losses[f"loss_none_t{t}"] - losses[f"loss_retrieved_t{t}"] for t in TIMESTEPS}
