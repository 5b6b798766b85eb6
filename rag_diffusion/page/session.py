"""What one visitor of the page has drawn, and the neighbors that the next drawing is to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.sampling.provenance import Source, from_text
from rag_diffusion.sampling.studio import Picture

KEPT = 60  # drawings of a session
VARIANTS = {
    "none": "without neighbors",
    "random": "random neighbors",
    "retrieved": "retrieved neighbors",
    "given": "neighbors by hand",
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One drawing of the history.

    Attributes:
        number: from 1, in the order of drawing.
        picture: with its provenance.
        neighbors: that it looked at, as they can be shown and used again.
        lineage: what it was drawn from within the session, in words; empty for one that began anew.
    """

    number: int
    picture: Picture
    neighbors: tuple[Neighbor, ...]
    lineage: str = ""

    @property
    def words(self) -> str:
        """Which neighbors it was shown."""
        return "drawn again" if self.lineage else VARIANTS[self.picture.variant]

    def share(self, name: str) -> float | None:
        """Share of attention that the neighbor `name` received, 0 to 1; None for one that was not seen."""
        shares = {source.pair_id: source.attention for source in self.picture.provenance.neighbors}
        return shares.get(name)

    def heat(self, name: str) -> Any:
        """(H', W') where the picture looked at the neighbor `name`; None for one that was not seen."""
        names = [source.pair_id for source in self.picture.provenance.neighbors]
        return self.picture.heat[names.index(name)] if name in names else None


@dataclass
class Session:
    """What the page holds for one visitor.

    Attributes:
        entries: drawings, oldest first; `KEPT` at most.
        shown: numbers of those that stand on the page side by side.
        neighbors: in the panel, with what was changed of them by hand.
        chosen: name of the neighbor that was touched; empty for none.
        hits: of the last search.
        picked: names of the hits that were touched.
        count: drawings so far.
    """

    entries: list[Entry] = field(default_factory=list)
    shown: tuple[int, ...] = ()
    neighbors: tuple[Neighbor, ...] = ()
    chosen: str = ""
    hits: tuple[Neighbor, ...] = ()
    picked: tuple[str, ...] = ()
    count: int = 0

    def add(self, pictures: Sequence[Picture], given: Sequence[Neighbor], lineage: str = "") -> None:
        """Keep drawings of one request and show them.

        Args:
            pictures: side by side.
            given: neighbors by hand, of those pictures that looked at them.
            lineage: what they were drawn from within the session, in words.
        """
        new = self.as_entries(pictures, given, lineage)
        self.count += len(new)
        self.entries = [*self.entries, *new][-KEPT:]
        self.shown = tuple(entry.number for entry in new)
        self.neighbors, self.chosen = new[-1].neighbors, ""

    def as_entries(self, pictures: Sequence[Picture], given: Sequence[Neighbor] = (), lineage: str = "") -> list[Entry]:
        """Pictures as the next drawings, numbered.

        Args:
            pictures: in the order of drawing.
            given: as `add`.
            lineage: as `add`.
        """
        return [
            Entry(
                number=number,
                picture=picture,
                neighbors=tuple(given) if picture.variant == "given" else as_neighbors(picture.provenance.neighbors),
                lineage=lineage,
            )
            for number, picture in enumerate(pictures, self.count + 1)
        ]

    def entry(self, number: int) -> Entry | None:
        """The drawing of the number `number`; None where it is not kept any more."""
        return next((entry for entry in self.entries if entry.number == number), None)

    @property
    def standing(self) -> list[Entry]:
        """The drawings on the page."""
        return [entry for number in self.shown if (entry := self.entry(number)) is not None]

    @property
    def last(self) -> Entry | None:
        """The drawing that can be drawn again: the last of those on the page."""
        return self.standing[-1] if self.standing else None


def as_neighbors(sources: Sequence[Source]) -> tuple[Neighbor, ...]:
    """Neighbors out of the `sources` of a provenance that keeps their pixels."""
    return tuple(
        Neighbor(
            image=from_text(source.image),
            caption=source.caption,
            pair_id=source.pair_id,
            source=source.source,
            licence=source.licence,
            attribution=source.attribution,
            score=source.score,
            weight=source.weight,
            role="style" if source.role == "style" else "content",
            weight_by_step=source.weight_by_step,
            weight_by_map=source.weight_by_map,
        )
        for source in sources
    )
