"""Which neighbors condition which step: constant, another number by step, or found again on the way [0048], [0062].

Shares are of the denoising steps: 0 is the first step, .5 the middle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rag_diffusion.config import ScheduleConfig


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Steps from `start` on that see the same neighbors.

    Attributes:
        start: number of the first step.
        count: the most neighbors an image sees; None is all it has.
        places: of the neighbors that it sees, in its list; None is all of them.
        query: whether they are looked for again, by the text and by what the image looks like so far.
    """

    start: int
    count: int | None
    query: bool
    places: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class RetrievalSchedule:
    """How neighbors change over the steps; by default they do not.

    Attributes:
        counts: (share, number) pairs: from that share of the steps on, so many neighbors. ((0, 3), (0.7, 0))
            shows three until seven tenths, then none. Before the first entry it is `num_neighbors` of the call.
        shown: (share, places) pairs: from that share of the steps on, the neighbors at those places of an image's list,
            the first of which is 0. ((0, (0, 1)), (0.5, (2,))) shows the first two, then the third alone. A place that
            a list does not have shows nothing.
        query_again: shares of the steps at which neighbors are looked for again, with the x_0 estimate of that moment
            through the image tower of the retriever.
        image_weight: share of the image in the score of those queries.

    Raises:
        ValueError: a share is outside of [0, 1), a query stands at 0, or a number is negative or no whole one.

    Examples:
        Three neighbors, one from seven tenths of the steps on, and another search after four tenths:

        >>> from rag_diffusion import RetrievalSchedule
        >>> schedule = RetrievalSchedule(counts=((0, 3), (0.7, 1)), query_again=(0.4,))
        >>> [(phase.start, phase.count, phase.query) for phase in schedule.phases(num_steps=50)]
        [(0, 3, False), (20, 3, True), (35, 1, False)]
    """

    counts: tuple[tuple[float, int], ...] = ()
    shown: tuple[tuple[float, tuple[int, ...]], ...] = ()
    query_again: tuple[float, ...] = ()
    image_weight: float = 0.5

    def __post_init__(self) -> None:
        wrong = [share for share, _ in (*self.counts, *self.shown) if not 0 <= share < 1]
        wrong += [share for share in self.query_again if not 0 < share < 1]
        if wrong:
            raise ValueError(
                f"RetrievalSchedule: expected shares of the steps in [0, 1), above 0 for query_again, got {wrong}"
            )
        numbers = [number for _, number in self.counts] + [place for _, places in self.shown for place in places]
        if any(not isinstance(number, int) or number < 0 for number in numbers):
            raise ValueError(f"RetrievalSchedule: expected whole numbers of at least 0, got {numbers}")
        if not 0 <= self.image_weight <= 1:
            raise ValueError(f"image_weight: expected a share from 0 to 1, got {self.image_weight}")

    @classmethod
    def from_config(cls, config: ScheduleConfig) -> RetrievalSchedule:
        """As `config`, `retrieval.schedule` in params.yaml, says."""
        return cls(
            counts=tuple((share, number) for share, number in config.counts),
            shown=tuple((share, tuple(places)) for share, places in config.shown),
            query_again=tuple(config.query_again),
            image_weight=config.image_weight,
        )

    def phases(self, num_steps: int, count: int | None = None) -> list[Phase]:
        """The schedule for T steps, one phase for each change; every entry is heard for at least one step.

        Args:
            num_steps: T.
            count: neighbors until the first entry of `counts`; None is all there are.

        Returns:
            At least one phase; the first starts at step 0.
        """
        last = num_steps - 1
        counts = {min(round(share * num_steps), last): number for share, number in sorted(self.counts)}
        shown = {min(round(share * num_steps), last): places for share, places in sorted(self.shown)}
        queries = {min(max(round(share * num_steps), 1), last) for share in self.query_again} - {0}
        phases, places = list[Phase](), None
        for step in sorted({0, *counts, *shown, *queries}):
            count, places = counts.get(step, count), shown.get(step, places)
            phases.append(Phase(start=step, count=count, query=step in queries, places=places))
        return phases

    def most(self, num_neighbors: int) -> int:
        """The most neighbors that any step shows, of which `num_neighbors` come before the first entry."""
        return max([num_neighbors, *(number for _, number in self.counts)])
