"""How many frames a clip has, and what each of them looks at."""

from __future__ import annotations

from dataclasses import dataclass

from rag_diffusion.sampling.clip_frames import MOST_FRAMES
from rag_diffusion.sampling.inputs import check_counts


@dataclass(frozen=True, kw_only=True)
class RolloutSettings:
    """How the frames of a clip are conditioned.

    Attributes:
        num_frames: of the clip, those that are given among them.
        num_last: last frames that the next one looks at.
        num_retrieved: earlier ones beside them, the first frame among these, see `FrameMemory.select`.
        num_pairs: pairs of the knowledge base beside the frames; all that are given by hand are looked at. One more
            artist's drawing of the thing costs likeness (benchmarks/2026-11-30-clips.md).
        num_neighbors: likewise of a first frame that is drawn, not given.
        with_first: whether the first frame is always looked at.
        first_weight: how much the first frame counts where it is looked at; it drifted least.
        diversity: of the retrieved frames in time, 0 to 1.
        same_noise: whether all frames begin with the same noise. What is wrong in one frame is then made worse in the
            next, and drift is more than twice as large (LOG.md).

    Raises:
        ValueError: a number is out of range.
    """

    num_frames: int = 16
    num_last: int = 1
    num_retrieved: int = 2
    num_pairs: int = 0
    num_neighbors: int = 3
    with_first: bool = True
    first_weight: float = 8.0
    diversity: float = 0.3
    same_noise: bool = False

    def __post_init__(self) -> None:
        count = self.num_frames
        if not isinstance(count, int) or isinstance(count, bool) or not 2 <= count <= MOST_FRAMES:
            raise ValueError(
                f"num_frames: expected a whole number from 2 to {MOST_FRAMES}, got {count!r}; one frame is a picture, "
                "and a longer clip begins with the last frames of one before"
            )
        check_counts(num_neighbors=self.num_neighbors)
        for name in ("num_last", "num_retrieved", "num_pairs"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 16:
                raise ValueError(f"{name}: expected a whole number from 0 to 16, got {value!r}")
        if not 0 <= self.first_weight <= 100:
            raise ValueError(f"first_weight: expected 0 to 100, got {self.first_weight!r}")
        if not 0 <= self.diversity <= 1:
            raise ValueError(f"diversity: expected 0 to 1, got {self.diversity!r}")
