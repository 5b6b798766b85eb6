"""Making the ruler: trained on train entities, chosen on validation entities, before any generator exists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rag_diffusion.corpus.store import Corpus
from rag_diffusion.errors import DataError
from rag_diffusion.metrics.ruler.augment import blur
from rag_diffusion.metrics.ruler.entity import MIN_STYLES, Prototypes
from rag_diffusion.metrics.ruler.linear import Affine, fit_lda, fit_whitening
from rag_diffusion.metrics.ruler.store import entity_features
from rag_diffusion.metrics.ruler.style_net import BATCH, EPOCHS, StyleNet, style_logits, to_floats, train_style_net
from rag_diffusion.metrics.ruler.trunk import IMAGE_SIZE, Embedding, Trunk

ENTITY_SHRINKAGE = 0.2
ENTITY_DIMS = 384
CHECK_SHRINKAGE = 0.05
HIDDEN_STYLES = 4  # the target's and three of neighbors
RECIPE = (
    "entity: EfficientNet-Lite2 features (last map and layer statistics), whitened within train entities, cosine to the "
    "mean of the drawings nobody was shown; style: convolutional network at 64 px on flipped, shifted, recoloured, gray, "
    "blurred and noisy train images; style_check: linear discriminant on EfficientNet-Lite2 layer statistics"
)


@dataclass(frozen=True, kw_only=True)
class Scorers:
    """The three trained parts and the names of the style classes."""

    styles: tuple[str, ...]
    net: StyleNet
    entity: Affine
    style_check: Affine


def fit_scorers(corpus: Corpus, trunk: Trunk, *, seed: int, epochs: int = EPOCHS) -> Scorers:
    """Train the scorers on the train split.

    Args:
        corpus: with two or more styles.
        trunk: of the linear scorers.
        seed: of the style network.
        epochs: of the style network.

    Raises:
        DataError: the corpus has one style only.
    """
    rows = np.flatnonzero(corpus.table["split"] == "train")
    table = corpus.table.iloc[rows]
    styles, style = np.unique(table["style"].to_numpy(dtype=str), return_inverse=True)
    if len(styles) < 2:
        raise DataError(f"ruler: expected a corpus with several styles, got {styles.tolist()}; use the default corpus")
    _, entity = np.unique(table["entity"].to_numpy(dtype=str), return_inverse=True)
    net = train_style_net(corpus.pixels(rows), style, len(styles), seed=seed, epochs=epochs)
    embedding = trunk.embed(corpus.pixels(rows), desc="embed train images")
    return Scorers(
        styles=tuple(styles.tolist()),
        net=net,
        entity=fit_whitening(entity_features(embedding), entity, shrinkage=ENTITY_SHRINKAGE, dims=ENTITY_DIMS),
        style_check=fit_lda(embedding.layers, style, shrinkage=CHECK_SHRINKAGE),
    )


def validate(scorers: Scorers, corpus: Corpus, trunk: Trunk, *, seed: int) -> dict[str, dict[str, float]]:
    """Accuracy on validation entities: as they are, blurred, noisy, gray.

    The entity scorer meets the rule of the score stage: the target's style and three others, drawn by `seed`, give no
    prototypes.
    """
    rows = np.flatnonzero(corpus.table["split"] == "validation")
    table = corpus.table.iloc[rows]
    label = np.array([scorers.styles.index(style) for style in table["style"]])
    clean = trunk.embed(corpus.pixels(rows), desc="embed validation images")
    report = {}
    for name, pixels in degradations(corpus.pixels(rows), seed).items():
        embedding = clean if name == "clean" else trunk.embed(pixels, desc=f"embed validation images, {name}")
        report[name] = {
            "entity": entity_accuracy(scorers.entity, embedding, clean, table["entity"].tolist(), table["style"].tolist(), seed),
            "style": float((style_logits(scorers.net, pixels).argmax(axis=1) == label).mean()),
            "style_check": float((scorers.style_check(embedding.layers).argmax(axis=1) == label).mean()),
        }
    return report


def entity_accuracy(
    whitening: Affine, embedding: Embedding, drawn: Embedding, entities: list[str], styles: list[str], seed: int
) -> float:
    """Share of images recognised among all candidates; prototypes are made of the images in `drawn`."""
    rng = np.random.default_rng(seed)
    prototypes = Prototypes(whitening(entity_features(drawn)), entities, styles, min_styles=min(MIN_STYLES, len(set(styles))))
    features = whitening(entity_features(embedding))
    right = []
    for row, (entity, style) in enumerate(zip(entities, styles, strict=True)):
        if entity in prototypes.entities:
            others = [other for other in prototypes.styles if other != style]
            hidden = {style, *rng.permutation(others)[: HIDDEN_STYLES - 1].tolist()}
            similar = prototypes.similarities(features[row : row + 1], hidden)
            right.append(similar.argmax() == prototypes.number(entity))
    return float(np.mean(right))


def degradations(pixels: NDArray[np.uint8], seed: int) -> dict[str, NDArray[np.uint8]]:
    """The same images as they are, blurred by sigma .7 and 1 px, with noise of sigma .05, and gray."""
    images = to_floats(pixels)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    changed = {
        "blur 0.7 px": blur(images, torch.full((len(images),), 0.7)),
        "blur 1 px": blur(images, torch.full((len(images),), 1.0)),
        "noise 0.05": images + 0.05 * noise,
        "gray": images.mean(dim=1, keepdim=True).expand_as(images),
    }
    return {"clean": pixels} | {name: _to_pixels(value) for name, value in changed.items()}


def make_card(scorers: Scorers, corpus: Corpus, accuracies: dict[str, dict[str, float]], *, seed: int) -> dict[str, Any]:
    """What the ruler is, has seen and can do."""
    train = corpus.table.loc[corpus.table["split"] == "train", "entity"]
    config = {"trunk": "efficientnet-lite2", "trunk_image_size": IMAGE_SIZE, "entity_shrinkage": ENTITY_SHRINKAGE,
              "entity_dims": ENTITY_DIMS, "check_shrinkage": CHECK_SHRINKAGE, "epochs": EPOCHS, "batch_size": BATCH,
              "seed": seed}  # fmt: skip
    rounded = {name: {part: round(value, 4) for part, value in parts.items()} for name, parts in accuracies.items()}
    return {"corpus_hash": corpus.hash, "styles": list(scorers.styles), "recipe": RECIPE, "config": config,
            "validation": rounded, "train_entities": sorted(set(train))}  # fmt: skip


def _to_pixels(images: torch.Tensor) -> NDArray[np.uint8]:
    return (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
