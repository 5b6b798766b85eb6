"""Units of a source that are read a little ahead, and their results until these are given in order."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Any


class Units:
    """What is waiting, at work, done and given; a unit is kept until its result is there.

    Args:
        source: of the units. Where it ends in an error, those before it are done first.

    Attributes:
        read: how many units it has given so far.
        given: of how many of them the results were given.
        waiting: numbers of those that nobody has.
        error: in which the source ended.
    """

    def __init__(self, source: Iterable[Any]) -> None:
        self._source, self._ended = iter(source), False
        self._units, self._done, self._lost = dict[int, Any](), dict[int, Any](), Counter[int]()
        self.read = self.given = 0
        self.waiting: deque[int] = deque()
        self.error: Exception | None = None

    def __getitem__(self, number: int) -> Any:
        """The unit of a `number`, which has no result yet."""
        return self._units[number]

    @property
    def finished(self) -> bool:
        """Whether the results of all units of the source were given."""
        return self._ended and self.given == self.read

    def read_one(self) -> bool:
        """Read one more unit; whether there was one."""
        if self._ended:
            return False
        try:
            unit = next(self._source)
        except StopIteration:
            self._ended = True
        except Exception as error:
            self._ended, self.error = True, error
        else:
            self._units[self.read] = unit
            self.waiting.append(self.read)
            self.read += 1
        return not self._ended

    def read_until(self, count: int) -> int:
        """Read until there were `count` units, or until the end; how many there were."""
        while self.read < count and self.read_one():
            pass
        return self.read

    def finish(self, number: int, result: Any) -> None:
        """Keep the `result` of a unit by its `number`, and the unit no longer."""
        del self._units[number]
        self._done[number] = result

    def lose(self, number: int) -> int:
        """Have a unit, by its `number`, wait again because its worker died; how many have died of it."""
        self.waiting.appendleft(number)
        self._lost[number] += 1
        return self._lost[number]

    def results(self) -> Iterator[Any]:
        """Results that are there and were not given yet, as far as none before them is missing."""
        while self.given in self._done:
            self.given += 1
            yield self._done.pop(self.given - 1)
