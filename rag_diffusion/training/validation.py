"""Neighbor gain: validation loss with no, random and retrieved neighbors on the same noise at fixed timesteps.

The early signal of whether a model uses its neighbors: `none` and `random` above `retrieved`. `styled` has neighbors in
the target's style beside the retrieved ones.

The shift and scale curve says how: the same with every neighbor moved, scaled, mirrored or turned. A model that lays
neighbors on the target like stencils loses by what one that reads them keeps.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from rag_diffusion.models.codec import pixels_to_images
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_batch import NeighborBatch
from rag_diffusion.models.text_encoder import TextFeatures
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.training.augment import Placement
from rag_diffusion.training.objective import add_noise, weighted_loss

TIMESTEPS = (600, 850, 950)
KINDS = ("none", "random", "retrieved", "styled")
_STYLE = 2  # style neighbors of `styled`
SHIFTS = (4, 8, 12, 16, 24)  # pixels of 64
SIZES = (0.4, 0.5, 0.7, 1.2, 1.4)
CURVE_KINDS = ("retrieved", "random")
CURVE_BY_STEP = ("shift16", "size0.5")  # what a training can afford at every validation
_CURVE_TIMESTEP = 950


@dataclass(frozen=True, kw_only=True)
class GainProbe:
    """A fixed set of validation pairs with their kinds of neighbors.

    Attributes:
        images: (B, 3, H, W) in [-1, 1].
        captions: features of the B captions.
        neighbors: by kind, one of `KINDS`.
        neighbor_captions: features of the captions of the distinct neighbors, by kind; none of `none`.
    """

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
    """Choose validation pairs and neighbors, always the same for a seed; `styled` where the network knows roles.

    Args:
        generator: its text encoder reads the captions.
        corpus: where the pairs are.
        neighbors: validation pair -> its neighbors, best first.
        num_neighbors: content neighbors of each pair.
        size: the most pairs.
        seed: of the choice.
    """
    rng = np.random.default_rng(seed)
    names = sorted(neighbors)
    chosen = [names[number] for number in rng.permutation(len(names))[:size]]
    families = dict(zip(corpus.column("pair_id"), corpus.column("family"), strict=True))
    train = corpus.column("pair_id")[corpus.column("split") == "train"].tolist()
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
    if generator.unet.config.neighbor_roles:
        style_lists = [same_style(corpus, name, _STYLE, rng) for name in chosen]
        batches["styled"] = NeighborBatch.gather(corpus, lists["retrieved"], style_lists)
    encode = generator.text_encoder
    rows = corpus.rows(chosen)
    return GainProbe(
        images=pixels_to_images(torch.from_numpy(corpus.pixels(rows))),
        captions=encode(corpus.cells("caption", rows)),
        neighbors=batches,
        neighbor_captions={kind: encode(list(batch.captions)) for kind, batch in batches.items() if batch.captions},
    )


def same_style(corpus: Corpus, pair_id: str, count: int, rng: np.random.Generator) -> list[str]:
    """Training pairs of other families in a pair's style.

    Args:
        corpus: where they are.
        pair_id: of the pair.
        count: how many, at most.
        rng: of the choice.

    Returns:
        Their pair ids, each once.
    """
    row, style, family = corpus.row(pair_id), corpus.column("style"), corpus.column("family")
    mask = (corpus.column("split") == "train") & (style == style[row]) & (family != family[row])
    names = corpus.column("pair_id")[mask]
    return [str(name) for name in rng.choice(names, min(count, len(names)), replace=False)]


def neighbor_gain(generator: Generator, probe: GainProbe) -> dict[str, float]:
    """Validation v-loss of `generator` on `probe`: `loss_<kind>_t<timestep>`, `gain_t<timestep>` = none - retrieved."""
    losses = {
        f"loss_{kind}_t{timestep}": loss
        for kind in KINDS
        if kind in probe.neighbors
        for timestep, loss in _losses(generator, probe, probe.neighbors[kind], kind, TIMESTEPS).items()
    }
    return losses | {f"gain_t{t}": losses[f"loss_none_t{t}"] - losses[f"loss_retrieved_t{t}"] for t in TIMESTEPS}


def placement_curve(
    generator: Generator,
    probe: GainProbe,
    kinds: Sequence[str] = CURVE_KINDS,
    names: Collection[str] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """The shift and scale curve at t = 950: `curve_<kind>_<placement>`, the loss minus that without neighbors.

    Args:
        generator: judged.
        probe: its neighbors are placed anew.
        kinds: retrieved, random, or both.
        names: of the placements; None: all. Each costs a call with the encoding of its neighbors.
        seed: of the directions in which they move.

    Returns:
        Below zero where neighbors help. Placements: `aligned`, `shift<pixels of
        64>`, `size<scale>`, `mirrored`, `upside_down`.
    """
    (none,) = _losses(generator, probe, probe.neighbors["none"], "none", (_CURVE_TIMESTEP,)).values()
    curve: dict[str, float] = {}
    for kind in kinds:
        batch = probe.neighbors[kind]
        for name, placement in placements(len(batch.images), seed).items():
            if names is not None and name not in names:
                continue
            placed = replace(batch, images=placement.apply(batch.images))
            (loss,) = _losses(generator, probe, placed, kind, (_CURVE_TIMESTEP,)).values()
            curve[f"curve_{kind}_{name}"] = loss - none
    return curve


def placements(count: int, seed: int = 0) -> dict[str, Placement]:
    """Where `count` neighbors stand, by name; each moves in a direction drawn by `seed`, the same at every distance."""
    angle = np.random.default_rng(seed).uniform(0, 2 * np.pi, count)
    direction = np.stack([np.cos(angle), np.sin(angle)], -1)
    still, upright, same = np.zeros((count, 2)), np.zeros(count, dtype=bool), np.ones(count)

    def place(**changed: np.ndarray) -> Placement:
        return Placement.from_terms(**({"scale": same, "shift": still, "flip": upright, "angle": 0 * same} | changed))

    return {
        "aligned": place(),
        **{f"shift{pixels}": place(shift=direction * pixels / 32) for pixels in SHIFTS},
        **{f"size{size:g}": place(scale=same * size) for size in SIZES},
        "mirrored": place(flip=~upright),
        "upside_down": place(angle=same * np.pi),
    }


@torch.inference_mode()
def _losses(
    generator: Generator, probe: GainProbe, batch: NeighborBatch, kind: str, timesteps: Sequence[int]
) -> dict[int, float]:
    """Mean loss at each timestep with these neighbors, always on the same noise."""
    device, schedule = generator.device, generator.schedule
    clean = generator.codec.encode(probe.images.to(device))
    text = probe.captions.to(device)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(device)
    features = None
    if batch.captions:
        features = generator.neighbor_features(batch, probe.neighbor_captions[kind].to(device))
    losses = {}
    for timestep in timesteps:
        noised = add_noise(schedule, clean, noise, torch.full((len(clean),), timestep, device=device))
        output = generator.predict(noised.sample, noised.timesteps, text, features)
        losses[timestep] = float(weighted_loss(generator.prediction_type, output, noised).mean())
    return losses
