"""Training batches: targets grouped by entity, their neighbors of both roles, condition dropout and augmentation.

Targets of one entity share neighbors, and f(c_n, 0) depends on the neighbor alone: a batch of `group_size` targets an
entity encodes each distinct neighbor once. Every draw depends on (seed, step) alone, so a resumed run sees the same,
and each of several processes can load its rows of the one batch that all of them draw.

A target sees `content` neighbors, which show its thing, and `style` neighbors, which show other things in its manner.
Now and then some or all of the content neighbors are another target's: a model must learn to doubt what it is shown.

Shapes: B targets of a batch, K neighbors of each, N distinct neighbors, H/W image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rag_diffusion.arrays import Ints
from rag_diffusion.config import TrainConfig
from rag_diffusion.errors import DataError
from rag_diffusion.models.codec import pixels_to_images
from rag_diffusion.models.neighbor_batch import NeighborBatch
from rag_diffusion.models.neighbor_kv import CONTENT, STYLE
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.training.augment import Placement, SharedAugmentation, beside, mask_lookalikes

_MOST_OFTEN = 0.6  # how often a sample sees as many neighbors as it may
_STYLE_PAIRS = 3  # of one manner a step, from which its targets draw
_REGULAR = 64  # distinct neighbors of a batch are a multiple of it, where shapes are to be few
_PLACEMENTS, _TOGETHER = 1, 2  # mark the random streams of the augmentation


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B targets: images (B, 3, H, W) in [-1, 1], captions (empty where dropped), their neighbors."""

    images: Tensor
    captions: tuple[str, ...]
    neighbors: NeighborBatch


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What a step's B targets are, before any pixel is read; rows of the corpus."""

    targets: list[int]
    captions: list[str]
    content: list[list[int]]  # neighbors of each target
    style: list[list[int]]


class StepBatches(Protocol):
    """Batches by step, every draw by (seed, step) alone."""

    @property
    def captions(self) -> list[str]:
        """Texts that are worth encoding beforehand."""

    def parts(self, step: int, rows: Sequence[slice]) -> list[Batch]:
        """Batches of `rows` of the batch of `step`."""


class Batches:
    """Deterministic batches by step.

    Args:
        corpus: where the pixels and captions are.
        neighbors: training pair -> candidates, best first; its keys are the training set.
        config: batch and group size, numbers of neighbors, dropout, augmentation.
        num_neighbors: the most content neighbors a sample sees; it sees 1 to so many.
        seed: of every draw.
        device: where batches are put together.

    Raises:
        DataError: there is no training pair, or none in the styles of `focus_styles`.
    """

    def __init__(
        self,
        corpus: Corpus,
        neighbors: Mapping[str, Sequence[str]],
        config: TrainConfig,
        num_neighbors: int,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        if not neighbors:
            raise DataError("training: expected training pairs with neighbors, got none; run the stage `neighbors`")
        self._config, self._num_neighbors, self._seed = config, num_neighbors, seed
        self._pixels = torch.from_numpy(corpus.pixels()).to(device)
        self._side = corpus.image_size
        self._regular = self._pixels.device.type == "cuda"  # few shapes: a GPU chooses its kernels once for each
        self._ids, self._captions = corpus.column("pair_id").tolist(), corpus.column("caption").tolist()
        self._family = corpus.numbered("family")
        self._style = corpus.numbered("style")
        names = sorted(neighbors)
        rows = corpus.rows(names)
        self._candidates = {int(row): corpus.rows(neighbors[name]) for row, name in zip(rows, names, strict=True)}
        self._focused, self._others = self._groups(corpus, rows)
        self._of_style = _rows_by(self._style[rows], rows)
        self.num_pairs = len(rows)

    def __getitem__(self, step: int) -> Batch:
        """The whole batch of a step, numbered from 0."""
        return self.parts(step, [slice(None)])[0]

    @property
    def captions(self) -> list[str]:
        """Every text that a batch may hold."""
        rows = {*self._candidates, *(int(row) for pool in self._candidates.values() for row in pool)}
        return sorted({"", *(self._captions[row] for row in rows)})

    def parts(self, step: int, rows: Sequence[slice]) -> list[Batch]:
        """Batches of `rows` of the batch of `step`, each slice with the neighbors of its own targets."""
        plan = self._plan(step)
        together = SharedAugmentation.draw(
            np.random.default_rng([self._seed, step, _TOGETHER]), self._config.augment_together
        )
        return [self._load(plan, part, step, together) for part in rows]

    def _groups(self, corpus: Corpus, rows: Ints) -> tuple[list[Ints], list[Ints]]:
        """Training rows by entity: those with a drawing in a style of `focus_styles`, and the others."""
        wanted = set(self._config.focus_styles)
        entities = corpus.column("entity")[rows]
        inside = np.isin(corpus.column("style")[rows], sorted(wanted)) if wanted else np.ones(len(rows), bool)
        if not inside.any():
            raise DataError(f"focus_styles: expected styles of training pairs, got {sorted(wanted)}; see the corpus")
        focused = _rows_by(entities[inside], rows[inside])
        others = _rows_by(entities[~inside], rows[~inside])
        return [focused[name] for name in sorted(focused)], [others[name] for name in sorted(others)]

    def _plan(self, step: int) -> _Plan:
        rng = np.random.default_rng([self._seed, step])
        targets = self._targets(rng)
        drop_text, drop_neighbors = self._drops(rng, len(targets))
        captions = ["" if drop else self._captions[row] for row, drop in zip(targets, drop_text, strict=True)]
        content = [[] if drop else self._content(rng, row) for row, drop in zip(targets, drop_neighbors, strict=True)]
        content = self._mislead(rng, targets, content)
        memo: dict[int, Ints] = {}
        style = [
            [] if drop else self._style_neighbors(rng, row, memo)
            for row, drop in zip(targets, drop_neighbors, strict=True)
        ]
        return _Plan(targets=targets, captions=captions, content=content, style=style)

    def _load(self, plan: _Plan, part: slice, step: int, together: SharedAugmentation | None) -> Batch:
        rng = np.random.default_rng([self._seed, step, _PLACEMENTS])
        target_placement = Placement.draw(rng, len(plan.targets), self._config, self._side, targets=True)
        all_neighbors = sorted({row for rows in (*plan.content, *plan.style) for row in rows})
        neighbor_placement = Placement.draw(rng, len(all_neighbors), self._config, self._side, targets=False)
        crowded = rng.random(len(all_neighbors)) < self._config.augment_beside
        content, style = plan.content[part], plan.style[part]
        distinct = sorted({row for rows in (*content, *style) for row in rows})
        if self._regular and distinct:
            distinct += distinct[-1:] * (-len(distinct) % _REGULAR)
        numbers = np.searchsorted(all_neighbors, distinct).tolist()
        images = target_placement[part].apply(self._images(plan.targets[part]))
        neighbor_images = neighbor_placement[numbers].apply(self._images(distinct))
        others = self._images(np.roll(all_neighbors, 1)[numbers].tolist())
        neighbor_images = beside(neighbor_images, others, crowded[numbers])
        neighbors = self._batch(distinct, neighbor_images, content, style)
        if target_placement.moved.any() or neighbor_placement.moved.any():
            weights = mask_lookalikes(images, neighbor_images, neighbors.rows, neighbors.weights)
            neighbors = replace(neighbors, weights=weights)
        if together is not None and distinct:
            seen = torch.tensor([bool(a or b) for a, b in zip(content, style, strict=True)], device=images.device)
            images = torch.where(seen[:, None, None, None], together.apply(images), images)
            neighbors = replace(neighbors, images=together.apply(neighbor_images))
        return Batch(images=images, captions=tuple(plan.captions[part]), neighbors=neighbors)

    def _images(self, rows: list[int]) -> Tensor:
        return pixels_to_images(self._pixels[torch.tensor(rows, dtype=torch.long, device=self._pixels.device)])

    def _batch(
        self, distinct: list[int], images: Tensor, content: list[list[int]], style: list[list[int]]
    ) -> NeighborBatch:
        width = max((len(a) + len(b) for a, b in zip(content, style, strict=True)), default=0)
        if self._regular:
            width = self._num_neighbors + self._config.style_neighbors
        rows, weights = (
            np.zeros((len(content), width), dtype=np.int64),
            np.zeros((len(content), width), dtype=np.float32),
        )
        roles = np.full((len(content), width), CONTENT)
        for number, (of_content, of_style) in enumerate(zip(content, style, strict=True)):
            both = of_content + of_style
            rows[number, : len(both)] = np.searchsorted(distinct, both)
            weights[number, : len(both)] = 1.0
            roles[number, len(of_content) : len(both)] = STYLE
        return NeighborBatch(
            pair_ids=tuple(self._ids[row] for row in distinct),
            captions=tuple(self._captions[row] for row in distinct),
            images=images,
            rows=torch.from_numpy(rows).to(images.device),
            weights=torch.from_numpy(weights).to(images.device),
            roles=torch.from_numpy(roles).to(images.device),
        )

    def _targets(self, rng: np.random.Generator) -> list[int]:
        """Groups of targets of one entity, until the batch is full; an entity's chance is its number of pairs."""
        size = self._config.batch_size
        focused = round(size * self._config.focus_share) if self._others else size
        targets = self._draw_groups(rng, self._focused, focused) + self._draw_groups(rng, self._others, size - focused)
        while len(targets) < size:  # a corpus smaller than one batch
            targets += targets[: size - len(targets)]
        return targets

    def _draw_groups(self, rng: np.random.Generator, groups: list[Ints], size: int) -> list[int]:
        if not size:
            return []
        sizes = np.array([len(group) for group in groups], dtype=float)
        targets: list[int] = []
        for number in rng.choice(len(sizes), min(size, len(sizes)), replace=False, p=sizes / sizes.sum()):
            targets += rng.permutation(groups[number])[: self._config.group_size].tolist()
            if len(targets) >= size:
                break
        return targets[:size]

    def _content(self, rng: np.random.Generator, row: int) -> list[int]:
        pool = self._candidates[row]
        most = min(self._num_neighbors, len(pool))
        if not most:
            return []
        count = most if rng.random() < _MOST_OFTEN else int(rng.integers(1, most + 1))
        return [int(candidate) for candidate in rng.permutation(pool)[:count]]

    def _mislead(self, rng: np.random.Generator, targets: list[int], lists: list[list[int]]) -> list[list[int]]:
        """Put neighbors of other targets in the place of one content neighbor, or of all."""
        some, only = self._config.wrong_neighbors, self._config.only_wrong_neighbors
        if not some and not only:
            return lists
        pool = np.array(sorted({row for rows in lists for row in rows}), dtype=np.int64)
        misled = []
        for row, rows in zip(targets, lists, strict=True):
            draw, others = rng.random(), rng.permutation(pool)[: 3 * self._num_neighbors]
            wrong = [int(other) for other in others if self._family[other] != self._family[row]]
            if rows and draw < only:
                rows = wrong[: len(rows)] or rows
            elif rows and draw < only + some:
                rows = rows[: max(1, len(rows) - 1)] + wrong[:1]
            misled.append(rows)
        return misled

    def _style_neighbors(self, rng: np.random.Generator, row: int, memo: dict[int, Ints]) -> list[int]:
        """Other things in the target's style; the targets of a step share them, so that few are encoded."""
        draw, most = rng.random(), self._config.style_neighbors
        if not most or draw >= self._config.style_share:
            return []
        style = int(self._style[row])
        if style not in memo:
            pool = self._of_style[style]
            memo[style] = rng.choice(pool, min(len(pool), max(_STYLE_PAIRS, most)), replace=False)
        others = [int(other) for other in memo[style] if self._family[other] != self._family[row]]
        return others[: int(rng.integers(1, most + 1))]

    def _drops(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Which rows lose their text, which their neighbors: three separate probabilities."""
        config, draw = self._config, rng.random(size)
        both = draw < config.drop_both
        text = both | ((draw >= config.drop_both) & (draw < config.drop_both + config.drop_text))
        edge = config.drop_both + config.drop_text
        return text, both | ((draw >= edge) & (draw < edge + config.drop_neighbors))


class Prefetcher:
    """Batches by step; where a GPU computes, the next one is put together meanwhile. A context manager.

    Args:
        batches: by step.
        rows: the parts that this process takes of each.
        device: where the network computes.
    """

    def __init__(self, batches: StepBatches, rows: Sequence[slice], device: torch.device) -> None:
        self._batches, self._rows = batches, rows
        self._pool = ThreadPoolExecutor(1) if device.type == "cuda" else None
        self._next: tuple[int, Future[list[Batch]]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __getitem__(self, step: int) -> list[Batch]:
        """The parts of a step's batch."""
        if self._pool is None:
            return self._batches.parts(step, self._rows)
        waiting = self._next if self._next is not None and self._next[0] == step else None
        parts = waiting[1].result() if waiting else self._batches.parts(step, self._rows)
        self._next = step + 1, self._pool.submit(self._batches.parts, step + 1, self._rows)
        return parts


def _rows_by(keys: NDArray[Any], rows: Ints) -> dict[Any, Ints]:
    """Rows by key."""
    if not len(rows):
        return {}
    order = np.argsort(keys, kind="stable")
    values, starts = np.unique(keys[order], return_index=True)
    return dict(zip(values.tolist(), np.split(rows[order], starts[1:]), strict=True))
