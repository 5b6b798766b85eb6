"""Making the ruler: trained on train entities, chosen on validation entities, before any generator exists.

V views of the train images: as they are, degraded twice, and repainted in another style's palette, then degraded.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rag_diffusion.arrays import Ints, Pixels
from rag_diffusion.errors import DataError
from rag_diffusion.files import atomic_dir
from rag_diffusion.metrics.ruler.augment import blur, degrade, to_floats, to_pixels
from rag_diffusion.metrics.ruler.entity import MIN_STYLES, Prototypes
from rag_diffusion.metrics.ruler.linear import Affine, fit_lda, fit_whitening
from rag_diffusion.metrics.ruler.palette import repaint
from rag_diffusion.metrics.ruler.store import entity_features
from rag_diffusion.metrics.ruler.style import (
    BATCH,
    EPOCHS,
    HEADS,
    StyleEnsemble,
    style_logits,
    train_style_ensemble,
)
from rag_diffusion.metrics.ruler.trunk import MIDDLE, Embedding, Trunk
from rag_diffusion.store.corpus import Corpus

ENTITY_SHRINKAGE = 0.2
ENTITY_DIMS = 384
CHECK_SHRINKAGE = 0.05
HIDDEN_STYLES = 4  # the target's and three of neighbors
RECIPE = (
    "entity: EfficientNet-Lite2 features (last map and layer statistics), whitened within train entities, cosine to "
    "the mean of the drawings nobody was shown; style: mean log-probability of heads that differ in their seed alone, "
    "each convolutions on EfficientNet-Lite2 maps at an eighth of the resolution beside shallow layer statistics, "
    "trained on mirrored, shifted, recoloured, gray, blurred, noisy and repainted train images; style_check: linear "
    "discriminant on EfficientNet-Lite2 layer statistics of the same images"
)


@dataclass(frozen=True, kw_only=True)
class Scorers:
    """The three trained parts and the names of the style classes.

    Attributes:
        styles: in the order of the logits.
        style: the first style scorer.
        entity: whitening of the trunk's features within entity.
        style_check: the second style scorer.
    """

    styles: tuple[str, ...]
    style: StyleEnsemble
    entity: Affine
    style_check: Affine


def fit_scorers(corpus: Corpus, trunk: Trunk, *, seed: int, scratch: Path, epochs: int = EPOCHS) -> Scorers:
    """Train the scorers on the train split.

    Args:
        corpus: with two or more styles.
        trunk: that all scorers look through.
        seed: of views and training.
        scratch: where embedded views are kept, so that an interrupted run goes on.
        epochs: of the style scorer.

    Raises:
        DataError: the corpus has one style only.
    """
    rows = np.flatnonzero(corpus.table["split"] == "train")
    table = corpus.table.iloc[rows]
    styles, style = np.unique(table["style"].to_numpy(dtype=str), return_inverse=True)
    if len(styles) < 2:
        raise DataError(f"ruler: expected a corpus with several styles, got {styles.tolist()}; use the default corpus")
    _, entity = np.unique(table["entity"].to_numpy(dtype=str), return_inverse=True)
    views = [_embed_cached(trunk, pixels, scratch, f"train {name}")
             for name, pixels in train_views(corpus.pixels(rows), style, seed=seed).items()]  # fmt: skip
    weighted = [*views[:1] * (len(views) - 1), *views[1:]]  # as many images as they are as changed ones
    layers = np.concatenate([view.layers[:, :MIDDLE] for view in weighted])
    return Scorers(
        styles=tuple(styles.tolist()),
        style=train_style_ensemble(views, style, len(styles), seed=seed, epochs=epochs),
        entity=fit_whitening(entity_features(views[0]), entity, shrinkage=ENTITY_SHRINKAGE, dims=ENTITY_DIMS),
        style_check=fit_lda(layers, np.tile(style, len(weighted)), shrinkage=CHECK_SHRINKAGE),
    )


def train_views(pixels: Pixels, styles: Ints, *, seed: int) -> dict[str, Pixels]:
    """Views that the scorers are trained on: the images as they are, degraded twice, and repainted and degraded.

    Args:
        pixels: (n, H, W, 3) train images.
        styles: (n,) their style numbers.
        seed: of all draws.

    Returns:
        Name of the view -> (n, H, W, 3).
    """
    generator = torch.Generator().manual_seed(seed)
    return {
        "clean": pixels,
        "degraded 1": to_pixels(degrade(to_floats(pixels), generator)),
        "degraded 2": to_pixels(degrade(to_floats(pixels), generator)),
        "repainted": to_pixels(degrade(to_floats(repaint(pixels, styles, seed=seed)), generator)),
    }


def validation_views(pixels: Pixels, styles: Ints, *, seed: int) -> dict[str, Pixels]:
    """Images as they are, blurred by sigma .7 and 1 px, with noise of sigma .05, gray, and repainted.

    Args:
        pixels: (n, H, W, 3) validation images.
        styles: (n,) their style numbers.
        seed: of noise and palettes.

    Returns:
        Name of the view -> (n, H, W, 3).
    """
    images = to_floats(pixels)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return {
        "clean": pixels,
        "blur 0.7 px": to_pixels(blur(images, torch.full((len(images),), 0.7))),
        "blur 1 px": to_pixels(blur(images, torch.full((len(images),), 1.0))),
        "noise 0.05": to_pixels(images + 0.05 * noise),
        "gray": to_pixels(images.mean(dim=1, keepdim=True).expand_as(images)),
        "repainted": repaint(pixels, styles, seed=seed),
    }


def validate(
    scorers: Scorers, corpus: Corpus, trunk: Trunk, *, seed: int, scratch: Path
) -> dict[str, dict[str, float]]:
    """Accuracy on validation entities, as drawn and degraded.

    The entity scorer meets the rule of the score stage: the target's style and three others, drawn by `seed`, give no
    prototypes.

    Args:
        scorers: that are measured.
        corpus: its validation split.
        trunk: that they look through.
        seed: of the views and of the hidden styles.
        scratch: where embedded views are kept.

    Returns:
        View -> scorer -> share of images.
    """
    rows = np.flatnonzero(corpus.table["split"] == "validation")
    table = corpus.table.iloc[rows]
    label = np.array([scorers.styles.index(style) for style in table["style"]])
    looks = {name: _embed_cached(trunk, pixels, scratch, f"validation {name}")
             for name, pixels in validation_views(corpus.pixels(rows), label, seed=seed).items()}  # fmt: skip
    names = (table["entity"].tolist(), table["style"].tolist())
    return {
        name: {
            "entity": _entity_accuracy(scorers.entity, seen, looks["clean"], *names, seed=seed),
            "style": float((style_logits(scorers.style, seen).argmax(axis=1) == label).mean()),
            "style_check": float((scorers.style_check(seen.layers[:, :MIDDLE]).argmax(axis=1) == label).mean()),
        }
        for name, seen in looks.items()
    }


def _entity_accuracy(
    whitening: Affine, seen: Embedding, drawn: Embedding, entities: list[str], styles: list[str], *, seed: int
) -> float:
    """Share of images recognised among all candidates; prototypes are made of the images in `drawn`."""
    rng = np.random.default_rng(seed)
    needed = min(MIN_STYLES, len(set(styles)))
    prototypes = Prototypes(whitening(entity_features(drawn)), entities, styles, min_styles=needed)
    features = whitening(entity_features(seen))
    right = []
    for row, (entity, style) in enumerate(zip(entities, styles, strict=True)):
        if entity in prototypes.entities:
            others = [other for other in prototypes.styles if other != style]
            hidden = {style, *rng.permutation(others)[: HIDDEN_STYLES - 1].tolist()}
            similar = prototypes.similarities(features[row : row + 1], hidden)
            right.append(similar.argmax() == prototypes.number(entity))
    return float(np.mean(right))


def make_card(
    scorers: Scorers,
    corpus: Corpus,
    trunk: Trunk,
    accuracies: dict[str, dict[str, float]],
    *,
    seed: int,
    epochs: int = EPOCHS,
) -> dict[str, Any]:
    """What the ruler is, has seen and can do, JSON-able.

    Args:
        scorers: of the ruler.
        corpus: that they were trained on.
        trunk: that they look through.
        accuracies: of `validate`.
        seed: of the training.
        epochs: of the style scorer.
    """
    train = corpus.table.loc[corpus.table["split"] == "train", "entity"]
    config = {"trunk": "efficientnet-lite2", "trunk_image_size": trunk.image_size, "entity_shrinkage": ENTITY_SHRINKAGE,
              "entity_dims": ENTITY_DIMS, "check_shrinkage": CHECK_SHRINKAGE, "style_heads": HEADS, "epochs": epochs,
              "batch_size": BATCH, "seed": seed}  # fmt: skip
    rounded = {name: {part: round(value, 4) for part, value in parts.items()} for name, parts in accuracies.items()}
    return {"corpus_hash": corpus.hash, "styles": list(scorers.styles), "recipe": RECIPE, "config": config,
            "validation": rounded, "train_entities": sorted(set(train))}  # fmt: skip


def _embed_cached(trunk: Trunk, pixels: Pixels, scratch: Path, name: str) -> Embedding:
    """Embed images, or read what an earlier run has left for the very same pixels."""
    key = hashlib.sha256(f"{trunk.image_size} {pixels.shape}".encode() + pixels.tobytes()).hexdigest()[:24]
    folder = scratch / f"embedding-{key}"
    if not folder.is_dir():
        seen = trunk.embed(pixels, desc=f"embed {name}")
        with atomic_dir(folder) as new:
            for part in ("pooled", "layers", "maps"):
                np.save(new / f"{part}.npy", getattr(seen, part))
    pooled, layers, maps = (np.load(folder / f"{part}.npy") for part in ("pooled", "layers", "maps"))
    return Embedding(pooled=pooled, layers=layers, maps=maps)
