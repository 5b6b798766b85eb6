"""f(c_n, 0) of every pair that was used so far, encoded once: it depends neither on x_t, nor on t, nor on the image.

Shapes: B images, K neighbors, N pairs, C/H/W map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rag_diffusion.models.codec import pixels_to_images
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_batch import Neighbor, places
from rag_diffusion.models.neighbor_kv import CONTENT, STYLE, NeighborKV

_ROLES = {"content": CONTENT, "style": STYLE}
_BATCH = 32  # neighbors encoded at a time


@dataclass
class NeighborCache:
    """Feature maps by pair id, and by mask where a picture is fitted into one.

    Args:
        generator: whose encoder it is.
    """

    generator: Generator
    maps: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def features(self, lists: Sequence[Sequence[Neighbor]]) -> dict[str, NeighborKV] | None:
        """Keys and values for B images; None where no image has a neighbor.

        Args:
            lists: neighbors of each image; lists may differ in length.

        Raises:
            ValueError: one is a style neighbor, and the network does not tell roles apart.
        """
        pairs = {neighbor.encoding_name: neighbor for neighbors in lists for neighbor in neighbors}
        if not pairs:
            return None
        styled = next((neighbor.name for neighbor in pairs.values() if neighbor.role == "style"), None)
        if styled is not None and not self.generator.backbone.config.neighbor_roles:
            raise ValueError(
                f"neighbor {styled!r}: expected content neighbors alone, got one of style: this generator was trained "
                "without them and would take it for what is to be drawn; leave it out (retrieval.style: 0), or train "
                "one with model.neighbor_roles"
            )
        self._encode([neighbor for name, neighbor in pairs.items() if name not in self.maps])
        controlled = any(neighbor.controlled for neighbor in pairs.values())
        names = sorted(pairs)
        rows, weights = places(
            names,
            [[neighbor.encoding_name for neighbor in neighbors] for neighbors in lists],
            [[neighbor.weight for neighbor in neighbors] for neighbors in lists],
        )
        device = self.generator.device
        maps = {key: torch.stack([self.maps[name][key] for name in names]) for key in self.maps[names[0]]}
        roles = torch.full_like(rows, CONTENT)
        for number, neighbors in enumerate(lists):
            roles[number, : len(neighbors)] = torch.tensor([_ROLES[neighbor.role] for neighbor in neighbors])
        return self.generator.backbone.project_neighbors(
            maps, rows.to(device), weights.to(device), roles.to(device), controlled=controlled
        )

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """(H', W') of every attended map of what was encoded."""
        maps = next(iter(self.maps.values()))
        return {name: maps[name].shape[-2:] for name, _ in self.generator.backbone.attentions()}

    def _encode(self, new: Sequence[Neighbor]) -> None:
        for start in range(0, len(new), _BATCH):
            part = new[start : start + _BATCH]
            pixels = torch.stack([torch.tensor(neighbor.pixels(self.generator.size)) for neighbor in part])
            captions = self.generator.text_encoder([neighbor.caption for neighbor in part]).to(self.generator.device)
            maps = self.generator.neighbor_maps(pixels_to_images(pixels), captions)
            self.maps |= {
                neighbor.encoding_name: {key: maps[key][row] for key in maps} for row, neighbor in enumerate(part)
            }
