"""Who was looked at: the attention that every neighbor received while an image was drawn.

    share(n) = mean over steps, attended maps and cells of mass_p(n)                                n = null as well

so the shares of an image sum to 1; the mass is a by-product of the neighbor attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rag_diffusion.models.backbone import Backbone


@dataclass(frozen=True, kw_only=True)
class Attention:
    """What was recorded for B images with up to K neighbors.

    Attributes:
        shares: (B, K + 1), rows sum to 1; the last column is the null token.
        heat: (B, K, H, W) which cells of the image looked at each neighbor, at the finest attended map; 0 to 1.
    """

    shares: Tensor
    heat: Tensor


@dataclass(kw_only=True)
class AttentionRecorder:
    """Adds up shares over the calls of one drawing.

    Args:
        batch: B images.
        count: K, the most neighbors of an image.
    """

    batch: int
    count: int
    rows: Tensor | None = None
    _shares: dict[str, Tensor] = field(default_factory=dict)
    _calls: dict[str, Tensor] = field(default_factory=dict)
    _heat: dict[str, Tensor] = field(default_factory=dict)

    @contextmanager
    def listening(self, unet: Backbone[Any]) -> Iterator[AttentionRecorder]:
        """Record every call of the neighbor attention of `unet` inside the block."""
        for name, attention in unet.attentions():
            attention.listener = self._listener(name)
        try:
            yield self
        finally:
            for _, attention in unet.attentions():
                attention.listener = None

    def expect(self, rows: Tensor) -> None:
        """Say which images, by their numbers `rows`, the next calls draw first; a reduced prediction follows them."""
        self.rows = rows

    def result(self) -> Attention:
        """Means over everything recorded; a drawing without neighbors looked at the null token alone.

        Returns:
            Shares and heat maps, on the CPU.
        """
        null = torch.zeros(self.batch, self.count + 1)
        null[:, -1] = 1
        if not self._shares:
            return Attention(shares=null, heat=torch.zeros(self.batch, self.count, 1, 1))
        parts = [(self._shares[name] / self._calls[name].clamp(min=1)[:, None]).cpu() for name in self._shares]
        seen = next(iter(self._calls.values())).cpu() > 0
        shares = torch.where(seen[:, None], torch.stack(parts).mean(0), null)
        finest = max(self._heat, key=lambda name: self._heat[name].shape[-1])
        heat = self._heat[finest] / self._calls[finest].clamp(min=1)[:, None, None, None]
        return Attention(shares=shares, heat=heat.cpu())

    def _listener(self, name: str) -> Callable[[Tensor], None]:
        def listen(mass: Tensor) -> None:
            if self.rows is not None:
                self._add(name, self.rows, mass[: len(self.rows)].detach())

        return listen

    def _add(self, name: str, rows: Tensor, mass: Tensor) -> None:
        """Add (b, H, W, K + 1) of the images `rows`."""
        if name not in self._shares:
            self._shares[name] = mass.new_zeros(self.batch, self.count + 1)
            self._heat[name] = mass.new_zeros(self.batch, self.count, *mass.shape[1:3])
            self._calls[name] = mass.new_zeros(self.batch)
        self._shares[name][rows] += mass.mean(dim=(1, 2))
        self._heat[name][rows] += mass[..., :-1].permute(0, 3, 1, 2)
        self._calls[name][rows] += 1
