"""Keys and values of the neighbors of a batch at one attended map; see `models.neighbor_attention` for the equation.

Shapes: B batch, K neighbors of each, S cells of a map, M = K * S keys, h heads, d head width, e extra channels, f
channels of all finer maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

MASKED = -1e4  # logit of a key that must not be seen
CONTENT, STYLE = 0, 1  # roles of a neighbor
BIAS = 2  # the extra channel that is added to a key's logit


@dataclass(frozen=True)
class NeighborKV:
    """The neighbors of B images at one attended map.

    Attributes:
        keys: (B, h, M + 1, e + d).
        values: (B, h, M + 1, e + d + f).
        control: (B, K, S) log c_n(p), or (B, K, 1) where it is the same everywhere; None is 0. Only for keys that were
            projected with `controlled`.
    """

    keys: Tensor
    values: Tensor
    control: Tensor | None = None

    def select(self, rows: Tensor) -> NeighborKV:
        """Some of the B images, by their numbers `rows`, in any order and number."""
        return NeighborKV(self.keys[rows], self.values[rows], None if self.control is None else self.control[rows])

    def hidden(self) -> NeighborKV:
        """The same neighbors, none of them seen: every query is left with the null token."""
        keys = self.keys.clone()
        keys[:, :, :-1, BIAS] += MASKED
        return replace(self, keys=keys)

    @classmethod
    def cat(cls, parts: Sequence[NeighborKV]) -> NeighborKV:
        """The batches `parts` as one, in their order; all of them with `control`, or none."""
        control = [part.control for part in parts if part.control is not None]
        return cls(
            torch.cat([part.keys for part in parts]),
            torch.cat([part.values for part in parts]),
            torch.cat(control) if control else None,
        )
