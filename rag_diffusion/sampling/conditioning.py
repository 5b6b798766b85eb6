"""The neighbors that condition a batch, step by step, and the attention they received.

A phase is a run of steps with the same neighbors (`RetrievalSchedule`). Keys and values are made when a phase begins,
out of maps that the cache holds; the attention of the phases is averaged by their numbers of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rag_diffusion.arrays import Pixels
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.sampling.attention import Attention, AttentionRecorder
from rag_diffusion.sampling.control import ControlledNeighbors, SeenNeighbors
from rag_diffusion.sampling.neighbor_cache import NeighborCache
from rag_diffusion.sampling.provenance import PhaseNeighbors, Source, seen_digest, to_text
from rag_diffusion.sampling.schedule import Phase
from rag_diffusion.spans import span

Estimate = Callable[[], Pixels]
Find = Callable[[Pixels], list[list[Neighbor]]]


@dataclass(frozen=True, kw_only=True)
class AttentionShares:
    """What one image looked at.

    Attributes:
        neighbors: every pair that conditioned it, in the order of first use.
        shares: attention of each, mean over all steps; with `null` they sum to 1.
        null: share of the null token.
        heat: (H, W) each, which cells of the image looked at a neighbor, 0 to 1.
        phases: from which step on which of them were seen.
    """

    neighbors: tuple[Neighbor, ...]
    shares: tuple[float, ...]
    null: float
    heat: tuple[Tensor, ...]
    phases: tuple[PhaseNeighbors, ...]

    def sources(self, size: tuple[int, int], *, keep: bool = False) -> tuple[Source, ...]:
        """The same for the provenance.

        Args:
            size: (H, W) in pixels at which the network saw them.
            keep: whether the pixels go along.
        """
        pixels = [neighbor.pixels(size) for neighbor in self.neighbors]
        return tuple(
            Source(
                pair_id=neighbor.name,
                caption=neighbor.caption,
                source=neighbor.source,
                licence=neighbor.licence,
                attribution=neighbor.attribution,
                score=None if neighbor.score is None else float(neighbor.score),
                attention=round(share, 5),
                weight=float(neighbor.weight),
                digest=seen_digest(seen, neighbor.caption),
                image=to_text(seen) if keep else "",
                role=neighbor.role,
                weight_by_step=neighbor.weight_by_step,  # type: ignore[arg-type]
                weight_by_map=neighbor.weight_by_map,  # type: ignore[arg-type]
                mask="" if (mask := neighbor.mask_pixels(size)) is None else to_text(mask),
                fit_mask=neighbor.fit_mask,
                negative=neighbor.negative,
            )
            for neighbor, share, seen in zip(self.neighbors, self.shares, pixels, strict=True)
        )


@dataclass(kw_only=True)
class Conditioning:
    """Neighbors of B images over T steps; a context manager, which listens to the attention inside.

    Args:
        cache: feature maps.
        lists: neighbors of each image at the first step, best first.
        phases: of `RetrievalSchedule.phases`.
        find: images so far, (B, H, W, 3) uint8, to neighbors; needed where a phase looks for them again.
        num_steps: T.
    """

    cache: NeighborCache
    lists: list[list[Neighbor]]
    phases: Sequence[Phase]
    find: Find | None
    num_steps: int
    seen: SeenNeighbors | None = None
    shown: list[bool] = field(default_factory=list)
    recorder: AttentionRecorder | None = None
    _controlled: ControlledNeighbors | None = None
    _passed: list[tuple[int, float, list[list[Neighbor]], AttentionRecorder]] = field(default_factory=list)
    _listening: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Conditioning:
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    def at(self, number: int, estimate: Estimate) -> None:
        """Make `seen`, `shown` and `recorder` those of a step.

        Args:
            number: of the step.
            estimate: the images as they look so far; only called where neighbors are looked for again.
        """
        for place, phase in enumerate(self.phases):
            if phase.start == number:
                after = self.phases[place + 1].start if place + 1 < len(self.phases) else self.num_steps
                self._begin(phase, (after - number) / self.num_steps, estimate)
        if self._controlled is None:
            self.seen, self.shown = None, [False] * len(self.lists)
        else:
            self.seen, self.shown = self._controlled.at(number), self._controlled.shown(number)

    def _begin(self, phase: Phase, share: float, estimate: Estimate) -> None:
        if phase.query:
            assert self.find is not None
            self.lists = self.find(estimate())
        seen = [_first(_at(neighbors, phase.places), phase.count) for neighbors in self.lists]
        with span("encode neighbors", pairs=sum(map(len, seen))):
            features = self.cache.features(seen)
            self._controlled = None
            if features is not None:
                self._controlled = ControlledNeighbors.prepare(
                    seen, features, self.cache.shapes, self.cache.generator.size, self.num_steps
                )
        self.recorder = AttentionRecorder(batch=len(seen), count=max(map(len, seen), default=0))
        self._passed.append((phase.start, share, seen, self.recorder))
        self._listening.close()
        self._listening.enter_context(self.recorder.listening(self.cache.generator.backbone))

    def looked(self) -> list[AttentionShares]:
        """What each image looked at, over all steps."""
        parts = [(share, seen, recorder.result()) for _, share, seen, recorder in self._passed]
        return [_looked(row, parts, self._phases(row)) for row in range(len(self.lists))]

    def _phases(self, row: int) -> tuple[PhaseNeighbors, ...]:
        return tuple(
            PhaseNeighbors(start=start, pair_ids=tuple(neighbor.name for neighbor in seen[row]))
            for start, _, seen, _ in self._passed
        )


def _at(neighbors: list[Neighbor], places: Sequence[int] | None) -> list[Neighbor]:
    """The neighbors at some places, all where it is None, and the negative ones; a place that is not there none."""
    if places is None:
        return neighbors
    negative = [neighbor for neighbor in neighbors if neighbor.negative]
    positive = [neighbor for neighbor in neighbors if not neighbor.negative]
    return [positive[place] for place in places if place < len(positive)] + negative


def _first(neighbors: list[Neighbor], count: int | None) -> list[Neighbor]:
    """So many content neighbors, all where it is None, beside the style and negative ones; none at all for 0."""
    if count is None or count == 0:
        return neighbors if count is None else []
    content = [neighbor for neighbor in neighbors if neighbor.role == "content" and not neighbor.negative]
    return content[:count] + [neighbor for neighbor in neighbors if neighbor.role == "style" or neighbor.negative]


def _looked(
    row: int, parts: Sequence[tuple[float, list[list[Neighbor]], Attention]], phases: tuple[PhaseNeighbors, ...]
) -> AttentionShares:
    neighbors: dict[str, Neighbor] = {}
    shares: dict[str, float] = {}
    heat: dict[str, Tensor] = {}
    null = 0.0
    for share, seen, attention in parts:
        null += share * float(attention.shares[row, -1])
        for column, neighbor in enumerate(seen[row]):
            name = neighbor.name
            neighbors.setdefault(name, neighbor)
            shares[name] = shares.get(name, 0.0) + share * float(attention.shares[row, column])
            heat[name] = heat.get(name, torch.zeros(())) + share * attention.heat[row, column]
    return AttentionShares(
        neighbors=tuple(neighbors.values()),
        shares=tuple(shares.values()),
        null=null,
        heat=tuple(heat.values()),
        phases=phases,
    )
