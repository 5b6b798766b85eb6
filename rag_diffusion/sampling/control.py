"""Weights of neighbors by step, attended map and place, and which of them are negative: what each prediction sees.

The part that stays the same over the steps, masks and weights by map, is computed when the neighbors change; a step
adds one number for each neighbor. Keys and values are shared by everything here.

Shapes: B images, K neighbors, S cells of an attended map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.models.neighbor_control import map_weight, step_weight
from rag_diffusion.models.neighbor_kv import MASKED, NeighborKV

Features = Mapping[str, NeighborKV]


@dataclass(frozen=True, kw_only=True)
class SeenNeighbors:
    """Keys and values at one step, as the predictions of a guided step see them; see `guidance`.

    Attributes:
        positive: c_n.
        negative: m alone; None where no image has any.
        everything: c_n and m; None where no image has a negative one.
    """

    positive: Features
    negative: Features | None = None
    everything: Features | None = None

    def select(self, rows: Tensor) -> SeenNeighbors:
        """Some of the B images, by their numbers `rows`."""

        def chosen(features: Features | None) -> Features | None:
            return None if features is None else {name: kv.select(rows) for name, kv in features.items()}

        return SeenNeighbors(
            positive={name: kv.select(rows) for name, kv in self.positive.items()},
            negative=chosen(self.negative),
            everything=chosen(self.everything),
        )


@dataclass(frozen=True, kw_only=True)
class ControlledNeighbors:
    """Neighbors of B images at all steps that see the same ones.

    Attributes:
        lists: of each image.
        features: attended map -> their keys and values.
        fixed: attended map -> (B, K, S) or (B, K, 1) log of what does not depend on the step; None where no neighbor is
            controlled.
        num_steps: T.
    """

    lists: Sequence[Sequence[Neighbor]]
    features: Features
    fixed: Mapping[str, Tensor] | None
    num_steps: int

    @classmethod
    def prepare(
        cls,
        lists: Sequence[Sequence[Neighbor]],
        features: Features,
        shapes: Mapping[str, torch.Size],
        size: tuple[int, int],
        num_steps: int,
    ) -> ControlledNeighbors:
        """Compute what stays the same.

        Args:
            lists: neighbors of B images.
            features: attended map -> their keys and values, projected with `controlled` where one of them is.
            shapes: attended map -> (H', W').
            size: (H, W) of a drawing in pixels.
            num_steps: T.

        Raises:
            ValueError: a weight by map names a map that there is not, or nothing is left of a mask.
        """
        if not any(neighbor.controlled for neighbors in lists for neighbor in neighbors):
            return cls(lists=lists, features=features, fixed=None, num_steps=num_steps)
        device = next(iter(features.values())).keys.device
        count = max(map(len, lists))
        sides = {name: max(shape) for name, shape in shapes.items()}
        by_map = {name: torch.ones(len(lists), count) for name in features}
        masks = torch.ones(len(lists), count, *size)
        for row, neighbors in enumerate(lists):
            for column, neighbor in enumerate(neighbors):
                for name, weights in by_map.items():
                    weights[row, column] = map_weight(neighbor.weight_by_map, sides[name], list(sides.values()))  # type: ignore[arg-type]
                levels = neighbor.mask_pixels(size)
                if levels is not None:
                    masks[row, column] = torch.from_numpy(levels.copy()).float() / 255
        fixed = {name: _log(weights)[:, :, None] for name, weights in by_map.items()}
        if any(neighbor.mask is not None for neighbors in lists for neighbor in neighbors):
            cells = {name: F.interpolate(masks, tuple(shapes[name]), mode="area").flatten(2) for name in fixed}
            fixed = {name: weights + _log(cells[name]) for name, weights in fixed.items()}
        return cls(
            lists=lists,
            features=features,
            fixed={name: weights.to(device) for name, weights in fixed.items()},
            num_steps=num_steps,
        )

    def shown(self, step: int) -> list[bool]:
        """Whether each image has a neighbor that counts at a `step`, by its number from 0, negative ones aside."""
        weights = self._weights(step)
        return [
            any(weight > 0 and not neighbor.negative for weight, neighbor in zip(own, neighbors, strict=True))
            for own, neighbors in zip(weights, self.lists, strict=True)
        ]

    def at(self, step: int) -> SeenNeighbors:
        """What the predictions of a `step`, by its number from 0, see."""
        if self.fixed is None:
            return SeenNeighbors(positive=self.features)
        count = max(map(len, self.lists))
        weights, negative = torch.ones(len(self.lists), count), torch.zeros(len(self.lists), count, dtype=torch.bool)
        for row, (own, neighbors) in enumerate(zip(self._weights(step), self.lists, strict=True)):
            weights[row, : len(own)] = torch.tensor(own)
            negative[row, : len(own)] = torch.tensor([neighbor.negative for neighbor in neighbors], dtype=torch.bool)
        logs = _log(weights)
        if not negative.any():
            return SeenNeighbors(positive=self._with(logs))
        return SeenNeighbors(
            positive=self._with(logs.masked_fill(negative, MASKED)),
            negative=self._with(logs.masked_fill(~negative, MASKED)),
            everything=self._with(logs),
        )

    def _with(self, logs: Tensor) -> Features:
        """The features with log weights (B, K) of a step."""
        assert self.fixed is not None
        device = next(iter(self.fixed.values())).device
        of_step = logs[:, :, None].to(device)
        return {name: replace(kv, control=self.fixed[name] + of_step) for name, kv in self.features.items()}

    def _weights(self, step: int) -> list[list[float]]:
        """Factors by step; of a neighbor that counts nowhere, 0."""
        return [
            [
                step_weight(neighbor.weight_by_step, step, self.num_steps) * (neighbor.weight > 0)  # type: ignore[arg-type]
                for neighbor in neighbors
            ]
            for neighbors in self.lists
        ]


def _log(weights: Tensor) -> Tensor:
    return weights.log().clamp(min=MASKED)
