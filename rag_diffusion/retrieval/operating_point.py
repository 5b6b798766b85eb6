"""The fastest setting of an index that finds enough: how many lists are looked into, how many hits are scored again.

More of any parameter finds no less and takes no less time. So, for each choice of all parameters but one, the least
value of that one that reaches the recall is found by halving, and of those settings the fastest is taken.

Shapes: N vectors, Q queries, D width.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from rag_diffusion.retrieval.ann import SearchIndex, fastest_first
from rag_diffusion.retrieval.truth import Truth

_TIMED = 100  # queries, one at a time, as users ask
_ROUNDS = 3  # of which the best counts
_MARGINS = (0.1, 0.3, 0.6)  # of what may be missed, tried in turn: other queries find a little less than those tuned by
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """A setting that was measured.

    Attributes:
        point: a value for each parameter of the index.
        recall: of the queries it was measured with, the worst kind of them.
        seconds: of a query by itself.
    """

    point: Mapping[str, int]
    recall: float
    seconds: float


def choose_point(
    index: SearchIndex, tuning: Sequence[Truth], check: Sequence[Truth], min_recall: float
) -> Mapping[str, int]:
    """Find the fastest setting that reaches a recall, and leave the index there.

    Args:
        index: is tried out.
        tuning: by whose queries settings are found, a kind of queries each.
        check: by whose queries the one that is taken must hold as well.
        min_recall: recall asked for, of each kind.

    Returns:
        The setting; where none reaches the recall, the one that finds the most.
    """
    for margin in _MARGINS:
        for tried in points_reaching(index, tuning, min_recall + margin * (1 - min_recall)):
            index.use(tried.point)
            if _reach(index, check, min_recall):
                _LOG.info("index: %s finds %.4f at %.0f queries/s", dict(tried.point), tried.recall, 1 / tried.seconds)
                return tried.point
    finest = {name: values[-1] for name, values in index.parameters().items()}
    index.use(finest)
    return finest


def points_reaching(index: SearchIndex, truths: Sequence[Truth], min_recall: float) -> list[OperatingPoint]:
    """Settings that reach a recall and that no other beats in both recall and speed, the fastest first.

    Args:
        index: is tried out.
        truths: what it should find, for a kind of queries each.
        min_recall: recall asked for, of each kind.
    """
    parameters = index.parameters()
    reaching = [measure(index, truths, point) for point in _least_points(index, parameters, truths, min_recall)]
    order = fastest_first([(one.recall, one.seconds) for one in reaching])
    return [reaching[place] for place in order if reaching[place].recall >= min_recall]


def measure(index: SearchIndex, truths: Sequence[Truth], point: Mapping[str, int]) -> OperatingPoint:
    """Recall and time of an index at a setting.

    Args:
        index: is searched.
        truths: what it should find, for a kind of queries each; those of the first are timed, one at a time.
        point: a value for each parameter.
    """
    index.use(point)
    queries, seconds = truths[0].queries[:_TIMED], float("inf")
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        for row in range(len(queries)):
            index.search(queries[row : row + 1], truths[0].depth)
        seconds = min(seconds, (time.perf_counter() - start) / len(queries))
    return OperatingPoint(point=point, recall=min(truth.recall(index) for truth in truths), seconds=seconds)


def _least_points(
    index: SearchIndex, parameters: Mapping[str, Sequence[int]], truths: Sequence[Truth], min_recall: float
) -> list[dict[str, int]]:
    """Settings that reach the recall, with the least value of the parameter of most values."""
    if not parameters:
        return [{}]
    halved = max(parameters, key=lambda name: len(parameters[name]))
    others = {name: values[::-1] for name, values in parameters.items() if name != halved}
    values, failed, least = parameters[halved], list[tuple[int, ...]](), list[dict[str, int]]()
    starts: dict[tuple[int, ...], int] = {}
    for setting in product(*others.values()):
        if any(all(value <= bad for value, bad in zip(setting, worse, strict=True)) for worse in failed):
            continue
        below = [place for one, place in starts.items() if all(a <= b for a, b in zip(setting, one, strict=True))]

        def reaches(place: int, setting: tuple[int, ...] = setting) -> bool:
            index.use({halved: values[place], **dict(zip(others, setting, strict=True))})
            return _reach(index, truths, min_recall)

        low = _first(reaches, max(below, default=0), len(values))
        if low == len(values):
            failed.append(setting)
            continue
        starts[setting] = low
        least.append({halved: values[low], **dict(zip(others, setting, strict=True))})
    return least


def _reach(index: SearchIndex, truths: Sequence[Truth], min_recall: float) -> bool:
    return all(truth.recall(index) >= min_recall for truth in truths)


def _first(reaches: Callable[[int], bool], low: int, end: int) -> int:
    """The first place from `low` on that reaches, `end` where none does; in growing steps, as high places are slow."""
    high, step = low, 1
    while high < end and not reaches(high):
        low, high, step = high + 1, min(high + step, end - 1) if high < end - 1 else end, 2 * step
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle + 1, high)
    return low
