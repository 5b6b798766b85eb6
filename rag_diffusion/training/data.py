"""Training batches: targets grouped by entity, their precomputed neighbors, condition dropout and augmentation.

Targets of one entity share neighbors, and f(c_n, 0) depends on the neighbor alone: a batch of `group_size` targets an
entity encodes each distinct neighbor once. Every draw depends on (seed, step) alone, so a resumed run sees the same,
and each of several processes can load its rows of the one batch that all of them draw.

Shapes: B targets of a batch, K neighbors of each, N distinct neighbors, H/W image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from rag_diffusion.config import TrainConfig
from rag_diffusion.corpus.store import Corpus
from rag_diffusion.errors import DataError
from rag_diffusion.models.codec import pixels_to_images
from rag_diffusion.models.neighbor_batch import NeighborBatch
from rag_diffusion.training.augment import Moves, Together, keep_apart

_POOL = 6  # best candidates from which a training sample draws its neighbors
_MOVES, _TOGETHER = 1, 2  # mark the random streams of the augmentation


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B targets: images (B, 3, H, W) in [-1, 1], captions (empty where dropped), their neighbors."""

    images: Tensor
    captions: tuple[str, ...]
    neighbors: NeighborBatch


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What a step's B targets are, before any pixel is read."""

    targets: list[str]
    captions: list[str]
    lists: list[list[str]]  # neighbors of each target


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
        """The whole batch of a step."""
        return self.parts(step, [slice(None)])[0]

    def parts(self, step: int, rows: Sequence[slice]) -> list[Batch]:
        """Some rows of the batch of a step, each slice with the neighbors of its own targets."""
        plan = self._plan(step)
        moves = self._moves(plan, step) if self._config.augment_flip or self._config.augment_shift else None
        together = Together.draw(np.random.default_rng([self._seed, step, _TOGETHER]), self._config.augment_together)
        return [self._load(plan, part, moves, together) for part in rows]

    def _plan(self, step: int) -> _Plan:
        rng = np.random.default_rng([self._seed, step])
        targets = self._targets(rng)
        captions = self._corpus.table["caption"].iloc[self._corpus.rows(targets)].tolist()
        drop_text, drop_neighbors = self._drops(rng, len(targets))
        lists = [
            [] if drop else self._draw_neighbors(rng, name) for name, drop in zip(targets, drop_neighbors, strict=True)
        ]
        shown = ["" if drop else text for text, drop in zip(captions, drop_text, strict=True)]
        return _Plan(targets=targets, captions=shown, lists=lists)

    def _load(
        self, plan: _Plan, part: slice, moves: tuple[Moves, dict[str, int], Moves] | None, together: Together | None
    ) -> Batch:
        images = pixels_to_images(torch.from_numpy(self._corpus.pixels(self._corpus.rows(plan.targets[part]))))
        neighbors = NeighborBatch.gather(self._corpus, plan.lists[part])
        if moves is not None:
            of_targets, places, of_neighbors = moves
            images = of_targets[part].apply(images)
            shown = of_neighbors[[places[name] for name in neighbors.pair_ids]].apply(neighbors.images)
            weights = keep_apart(images, shown, neighbors.rows, neighbors.weights)
            neighbors = replace(neighbors, images=shown, weights=weights)
        if together is not None and len(neighbors.images):
            with_neighbors = torch.tensor([bool(names) for names in plan.lists[part]])[:, None, None, None]
            images = torch.where(with_neighbors, together.apply(images), images)
            neighbors = replace(neighbors, images=together.apply(neighbors.images))
        return Batch(images=images, captions=tuple(plan.captions[part]), neighbors=neighbors)

    def _moves(self, plan: _Plan, step: int) -> tuple[Moves, dict[str, int], Moves]:
        """Of the targets; where each distinct neighbor stands among the others; of those. For the whole batch."""
        rng = np.random.default_rng([self._seed, step, _MOVES])
        flip, shift = self._config.augment_flip, self._config.augment_shift
        distinct = sorted({name for names in plan.lists for name in names})
        of_targets = Moves.draw(rng, len(plan.targets), flip, shift)
        places = {name: number for number, name in enumerate(distinct)}
        return of_targets, places, Moves.draw(rng, len(distinct), flip, shift)

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
