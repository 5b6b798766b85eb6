"""The ruler on disk: small weights in safetensors, and a card with their hash and what they have seen."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rag_diffusion.arrays import Doubles, Floats, Ints, Pixels
from rag_diffusion.errors import ModelError
from rag_diffusion.files import file_hash
from rag_diffusion.metrics.ruler.linear import Affine
from rag_diffusion.metrics.ruler.style import StyleEnsemble, style_logits
from rag_diffusion.metrics.ruler.trunk import DEEP, MIDDLE, Embedding, Trunk

WEIGHTS = "ruler.safetensors"
CARD = "ruler.json"
_HEAD = "style."
_MATRIX_DTYPE = {"entity": torch.float16, "style_check": torch.float32}


@dataclass(frozen=True, kw_only=True)
class Looks:
    """What the scorers see in n images.

    Attributes:
        pooled: (n, 1280) mean of the trunk's last map.
        entity: (n, k) whitened features.
        style: (n, styles) logits of the first style scorer.
        style_check: (n, styles) logits of the second.
    """

    pooled: Floats
    entity: Doubles
    style: Doubles
    style_check: Doubles

    def __len__(self) -> int:
        return len(self.entity)

    def rows(self, rows: Ints) -> Looks:
        """Those of the images numbered `rows` (m,)."""
        return Looks(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True, kw_only=True)
class Ruler:
    """Fixed scorers of entity and style.

    Attributes:
        styles: names of the style classes, in the order of the logits.
        style: the first style scorer.
        entity: whitening of the trunk's features within entity.
        style_check: the second style scorer, on the trunk's layer statistics.
        card: how it was made, what it has seen, how well it does on validation entities.
        sha256: of the weights.
    """

    styles: tuple[str, ...]
    style: StyleEnsemble
    entity: Affine
    style_check: Affine
    card: dict[str, Any]
    sha256: str

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that its trunk must see."""
        return int(self.card["config"]["trunk_image_size"])

    @property
    def train_entities(self) -> frozenset[str]:
        """Entities that any part of it was trained on."""
        return frozenset(self.card["train_entities"])

    def look(self, trunk: Trunk, pixels: Pixels, *, desc: str = "score images") -> Looks:
        """Look at images.

        Args:
            trunk: of `image_size`.
            pixels: (n, H, W, 3) uint8.
            desc: of the progress bar.
        """
        embedding = trunk.embed(pixels, desc=desc)
        return Looks(
            pooled=embedding.pooled,
            entity=self.entity(entity_features(embedding)),
            style=style_logits(self.style, embedding),
            style_check=self.style_check(embedding.layers[:, :MIDDLE]),
        )

    def refuse_seen(self, entities: Collection[str]) -> None:
        """Refuse to judge `entities` that a part of it was trained on.

        Raises:
            ModelError: at least one was.
        """
        seen = sorted(self.train_entities & set(entities))
        if seen:
            raise ModelError(
                f"ruler {self.sha256[:12]}: expected scored entities it has never seen, got {len(seen)} it was trained "
                f"on, e.g. {seen[:5]}; the split has changed: make a new ruler (`make ruler`)"
            )


def entity_features(embedding: Embedding) -> Floats:
    """What the entity scorer starts from: pooled features and deep statistics of `embedding`, (n, 2320)."""
    return np.concatenate([embedding.pooled, embedding.layers[:, -DEEP:]], axis=1)


def save_ruler(
    folder: Path, *, style: StyleEnsemble, entity: Affine, style_check: Affine, card: dict[str, Any]
) -> None:
    """Write weights and card; the large whitening matrix in float16.

    Args:
        folder: which exists.
        style: the first style scorer.
        entity: whitening of the entity scorer.
        style_check: the second style scorer.
        card: of `make_card`; the hash of the weights is added.
    """
    tensors = {_HEAD + name: value.contiguous() for name, value in style.state_dict().items()}
    for name, part in (("entity", entity), ("style_check", style_check)):
        tensors[f"{name}.center"] = torch.from_numpy(part.center).float()
        tensors[f"{name}.matrix"] = torch.from_numpy(np.ascontiguousarray(part.matrix)).to(_MATRIX_DTYPE[name])
        tensors[f"{name}.bias"] = torch.from_numpy(part.bias).float()
    save_file(tensors, folder / WEIGHTS)
    card = {"sha256": file_hash(folder / WEIGHTS)} | card
    (folder / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def load_ruler(folder: Path | str) -> Ruler:
    """Read the ruler in `folder` and check its hash.

    Raises:
        ModelError: it is missing, or its weights are not those of the card, or do not fit.
    """
    folder = Path(folder)
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        sha256 = file_hash(folder / WEIGHTS)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: expected {CARD} and {WEIGHTS}, got {error}; restore them with git") from None
    if sha256 != card["sha256"]:
        raise ModelError(
            f"{folder / WEIGHTS}: expected sha256 {card['sha256'][:12]}… as {CARD} says, got {sha256[:12]}…; "
            "the ruler must not change: restore it with git"
        )
    try:
        tensors = load_file(folder / WEIGHTS)
        style = StyleEnsemble(len(card["styles"]))
        style.load_state_dict(
            {name.removeprefix(_HEAD): value for name, value in tensors.items() if name.startswith(_HEAD)}
        )
        parts = {name: _affine(tensors, name) for name in ("entity", "style_check")}
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise ModelError(f"{folder}: expected the weights of this version's scorers, got {error}") from None
    return Ruler(styles=tuple(card["styles"]), style=style.eval(), card=card, sha256=sha256, **parts)


def _affine(tensors: dict[str, Tensor], name: str) -> Affine:
    center, matrix, bias = (tensors[f"{name}.{part}"].double().numpy() for part in ("center", "matrix", "bias"))
    return Affine(center=center, matrix=matrix, bias=bias)
