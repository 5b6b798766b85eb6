"""Training batches: targets grouped by entity, their precomputed neighbors, and condition dropout.

Targets of one entity share neighbors, and f(c_n, 0) depends on the neighbor alone: a batch of `group_size` targets an
entity encodes each distinct neighbor once. Every draw depends on (seed, step) alone, so a resumed run sees the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rag_diffusion.config import TrainConfig
from rag_diffusion.corpus.store import Corpus
from rag_diffusion.errors import DataError
from rag_diffusion.models.codec import pixels_to_images
from rag_diffusion.models.neighbor_batch import NeighborBatch

_POOL = 6  # best candidates from which a training sample draws its neighbors


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B targets: images (B, 3, H, W) in [-1, 1], captions (empty where dropped), their neighbors."""

    images: Tensor
    captions: tuple[str, ...]
    neighbors: NeighborBatch


class Batches:
    """Deterministic batches by step.

    Args:
        corpus: where the pixels and captions are.
        neighbors: training pair -> candidates, best first; its keys are the training set.
        config: batch and group size, dropout.
        num_neighbors: the most neighbors a sample sees; it sees 1 to so many.
        seed: of every draw.

    Raises:
        DataError: there is no training pair.
    """

    def __init__(
        self,
        corpus: Corpus,
        neighbors: Mapping[str, Sequence[str]],
        config: TrainConfig,
        num_neighbors: int,
        seed: int,
    ) -> None:
        if not neighbors:
            raise DataError("training: expected training pairs with neighbors, got none; run the stage `neighbors`")
        self._corpus, self._neighbors, self._config = corpus, neighbors, config
        self._num_neighbors, self._seed = num_neighbors, seed
        table = corpus.table.iloc[corpus.rows(sorted(neighbors))]
        self._groups = [group["pair_id"].tolist() for _, group in table.groupby("entity", sort=True)]
        self.num_pairs = len(table)

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng([self._seed, step])
        targets = self._targets(rng)
        captions = self._corpus.table["caption"].iloc[self._corpus.rows(targets)].tolist()
        drop_text, drop_neighbors = self._drops(rng, len(targets))
        lists = [
            [] if drop else self._draw_neighbors(rng, name) for name, drop in zip(targets, drop_neighbors, strict=True)
        ]
        pixels = torch.from_numpy(self._corpus.pixels(self._corpus.rows(targets)))
        return Batch(
            images=pixels_to_images(pixels),
            captions=tuple("" if drop else text for text, drop in zip(captions, drop_text, strict=True)),
            neighbors=NeighborBatch.gather(self._corpus, lists),
        )

    def _targets(self, rng: np.random.Generator) -> list[str]:
        """Groups of targets of one entity, until the batch is full; an entity's chance is its number of pairs."""
        sizes = np.array([len(group) for group in self._groups], dtype=float)
        size, targets = self._config.batch_size, list[str]()
        for number in rng.choice(len(sizes), min(size, len(sizes)), replace=False, p=sizes / sizes.sum()):
            group = self._groups[number]
            targets += rng.permutation(group)[: self._config.group_size].tolist()
            if len(targets) >= size:
                break
        while len(targets) < size:  # a corpus smaller than one batch
            targets += targets[: size - len(targets)]
        return targets[:size]

    def _draw_neighbors(self, rng: np.random.Generator, pair_id: str) -> list[str]:
        pool = list(self._neighbors[pair_id][:_POOL])
        most = min(self._num_neighbors, len(pool))
        if not most:
            return []
        count = most if rng.random() < 0.6 else int(rng.integers(1, most + 1))
        return [pool[number] for number in rng.permutation(len(pool))[:count]]

    def _drops(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Which rows lose their text, which their neighbors: three separate probabilities."""
        config, draw = self._config, rng.random(size)
        both = draw < config.drop_both
        text = both | ((draw >= config.drop_both) & (draw < config.drop_both + config.drop_text))
        edge = config.drop_both + config.drop_text
        return text, both | ((draw >= edge) & (draw < edge + config.drop_neighbors))
