"""The frames of a clip that a next one may look at: as many as are kept, and which of them are shown.

    kept:   the first ones, the last ones, and of those between what differs most from its neighbors in time
    shown:  the last ones, the first one, then argmax (1 - d) <v_i, v_last> - d max_j 1 / |t_i - t_j|     j shown

Source: WO2024072749A1 [0007], [0015], [0026]: neighbors of a frame are frames already made. Maximal marginal relevance,
here in time: Carbonell and Goldstein, SIGIR 1998.

Shapes: H/W picture, D width of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from rag_diffusion.arrays import Doubles, Floats, Pixels

CAPACITY = 64  # frames
_SIDE = 16  # cells of a thumbnail

Look = Callable[[Pixels], Floats]


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One finished frame.

    Attributes:
        number: its place in the clip, from 1.
        pixels: (H, W, 3).
        licence: of a frame that was given; of a drawn one, those of the pairs that it was made from.
        attribution: their authors.
        source: where it came from.
    """

    number: int
    pixels: Pixels
    licence: str = ""
    attribution: str = ""
    source: str = ""


def thumbnail(pixels: Pixels) -> Floats:
    """How a picture looks, by colour and place alone.

    Args:
        pixels: (H, W, 3); white is no ink.

    Returns:
        (768,) unit vector; zeros of a picture that is white all over.
    """
    small = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return _unit(255 - np.asarray(small, dtype=np.float32)).astype(np.float32)


class FrameMemory:
    """The frames of a clip so far, bounded: what is too many is thinned out where it says least.

    It depends on the frames alone: the same ones in the same order leave the same memory.

    Args:
        capacity: frames kept at most.
        num_first: first ones that always stay.
        num_last: last ones that always stay.
        look: (H, W, 3) to (D,), what a frame looks like; `thumbnail`, or the image tower of a retriever.

    Raises:
        ValueError: there would be no room beside those that always stay.

    Examples:
        >>> import numpy as np
        >>> from rag_diffusion import FrameMemory
        >>> from rag_diffusion.sampling.frame_memory import Frame
        >>> memory = FrameMemory(capacity=8)
        >>> for number in range(1, 41):
        ...     memory.add(Frame(number=number, pixels=np.full((8, 8, 3), 6 * number, np.uint8)))
        >>> [frame.number for frame in memory]
        [1, 10, 22, 33, 37, 38, 39, 40]
        >>> [frame.number for frame in memory.select(num_last=1, num_retrieved=2)]
        [40, 1, 22]
    """

    def __init__(
        self, capacity: int = CAPACITY, *, num_first: int = 1, num_last: int = 4, look: Look = thumbnail
    ) -> None:
        if min(num_first, num_last) < 1 or capacity <= num_first + num_last:
            raise ValueError(
                f"capacity: expected more than the {num_first} first and {num_last} last frames, one of each at least, "
                f"got {capacity}"
            )
        self.capacity, self.num_first, self.num_last, self.look = capacity, num_first, num_last, look
        self._frames: list[Frame] = []
        self._vectors: list[Doubles] = []

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[Frame]:
        return iter(self._frames)

    def add(self, frame: Frame) -> None:
        """Keep a finished `frame`; where there are too many, one of those between the first and the last ones goes.

        Raises:
            ValueError: it does not come after those that are kept, or is of another size.
        """
        if self._frames and frame.number <= self._frames[-1].number:
            raise ValueError(f"frame: expected one after frame {self._frames[-1].number}, got {frame.number}")
        if self._frames and frame.pixels.shape != self._frames[0].pixels.shape:
            expected, got = self._frames[0].pixels.shape, frame.pixels.shape
            raise ValueError(f"frame {frame.number}: expected {expected[:2]} pixels as before, got {got[:2]}")
        self._frames.append(frame)
        self._vectors.append(_unit(self.look(frame.pixels)))
        if len(self._frames) > self.capacity:
            gone = self._least()
            del self._frames[gone], self._vectors[gone]

    def select(
        self, *, num_last: int = 1, num_retrieved: int = 2, with_first: bool = True, diversity: float = 0.3
    ) -> list[Frame]:
        """The frames that the next one looks at, all distinct; fewer where fewer are kept.

        Args:
            num_last: last ones.
            num_retrieved: earlier ones beside them.
            with_first: whether the very first frame, which drifted least, is one of these.
            diversity: 0 takes those that look most like the last frame; up to 1, those far in time from what is shown.

        Returns:
            The last ones, newest first, then the retrieved ones in the order in which they were taken.

        Raises:
            ValueError: a number is below 0, or the diversity outside of 0 to 1.
        """
        if min(num_last, num_retrieved) < 0 or not 0 <= diversity <= 1:
            raise ValueError(
                f"select: expected numbers of at least 0 and a diversity from 0 to 1, got num_last {num_last}, "
                f"num_retrieved {num_retrieved}, diversity {diversity}"
            )
        places = list(range(len(self._frames)))
        shown = places[::-1][:num_last]
        free = [place for place in places if place not in shown]
        wanted = min(num_retrieved, len(free))
        if wanted and with_first and free[0] == 0:
            shown.append(free.pop(0))
            wanted -= 1
        for _ in range(wanted):
            best = max(free, key=lambda place: (self._worth(place, shown, diversity), place))
            free.remove(best)
            shown.append(best)
        return [self._frames[place] for place in shown]

    def _worth(self, place: int, shown: list[int], diversity: float) -> float:
        """How much the frame at a place would add to those that are `shown`."""
        number = self._frames[place].number
        close = max((1 / abs(number - self._frames[other].number) for other in shown), default=0.0)
        akin = float(self._vectors[place] @ self._vectors[-1])
        return round((1 - diversity) * akin - diversity * close, 6)

    def _least(self) -> int:
        """The place of the frame that is least unlike its neighbors in time; of like ones, where frames lie closest."""

        def kept_for(place: int) -> tuple[float, int, int]:
            before, after = self._vectors[place - 1], self._vectors[place + 1]
            unlike = 2.0 - float(self._vectors[place] @ before) - float(self._vectors[place] @ after)
            gap = self._frames[place + 1].number - self._frames[place - 1].number
            return round(unlike, 6), gap, place

        return min(range(self.num_first, len(self._frames) - self.num_last), key=kept_for)


def _unit(vector: Floats) -> Doubles:
    """In float64: sums of float32 differ by machine, and equal frames would be unlike in the sixth place."""
    flat = np.asarray(vector, dtype=np.float64).reshape(-1)
    length = float(np.linalg.norm(flat))
    unit: Doubles = flat / length if length else flat
    return unit
