"""When a run has diverged: its loss is far above what it has been.

With m_n the median of the last 20 losses at step n and m* the lowest of them so far, a run has diverged when, after the
warm-up, m_n > 4 m*. It is in doubt when the median of the last 5 losses is above 4 m*: then no checkpoint replaces the
last good one. Both follow from the list of losses alone, so a resumed run judges as an uninterrupted one does.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable

WINDOW, SHORT = 20, 5
RATIO = 4.0


class LossWatch:
    """Sees every loss once, in order.

    Args:
        warmup_steps: in these first steps no run has diverged; what they reach is what later ones are held to.
        losses: of the steps before a resume.
    """

    def __init__(self, warmup_steps: int, losses: Iterable[tuple[int, float]] = ()) -> None:
        self._warmup, self._step = warmup_steps, 0
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self.lowest = float("inf")
        for step, loss in losses:
            self.see(step, loss)

    def see(self, step: int, loss: float) -> None:
        """Take in the `loss` of a `step`, numbered from 1."""
        self._step = step
        self._recent.append(loss)
        if len(self._recent) == WINDOW:
            self.lowest = min(self.lowest, self.level)

    @property
    def level(self) -> float:
        """Median of the last 20 losses."""
        return statistics.median(self._recent)

    @property
    def diverged(self) -> bool:
        """The run is to be stopped."""
        judged = len(self._recent) == WINDOW and self._step > self._warmup
        return judged and self.level > RATIO * self.lowest

    @property
    def in_doubt(self) -> bool:
        """The run's state is not to replace a good one."""
        return len(self._recent) == WINDOW and statistics.median(list(self._recent)[-SHORT:]) > RATIO * self.lowest
