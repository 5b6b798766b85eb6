"""Works for tests, where workers find them by name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray

from rag_diffusion.engine.work import Work
from rag_diffusion.errors import DataError, LineageError


def nodes_of(marks: Path) -> set[str]:
    """Nodes that have left marks."""
    return {line for path in marks.iterdir() for line in path.read_text().splitlines()}


def wait_for(seen: Callable[[], bool]) -> None:
    """At most so long as a busy machine takes to start a worker."""
    deadline = time.monotonic() + 120
    while not seen() and time.monotonic() < deadline:
        time.sleep(0.05)


@dataclass(frozen=True)
class Squares:
    """Leaves a mark for every unit that is done, with the node's id, and waits for the marks of so many nodes."""

    marks: Path
    nodes: int

    def open(self) -> Callable[[int], int]:
        return self.square

    def square(self, unit: int) -> int:
        node = ray.get_runtime_context().get_node_id()
        with (self.marks / str(unit)).open("a") as file:
            file.write(f"{node}\n")
        wait_for(lambda: len(nodes_of(self.marks)) >= self.nodes)
        return unit * unit


@dataclass(frozen=True)
class Dying:
    """Unit 3 ends its process as the system does where memory is short, so many times."""

    marks: Path
    times: int

    def open(self) -> Callable[[int], int]:
        return self.run

    def run(self, unit: int) -> int:
        if unit == 3:
            died = len(list(self.marks.iterdir()))
            if died < self.times:
                (self.marks / str(died)).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return -unit


@dataclass(frozen=True)
class OnlyOn:
    """One node alone has the files of the work; its units wait for the objection of another. None: no node has."""

    node: str | None
    marks: Path

    def open(self) -> Callable[[int], str]:
        here = ray.get_runtime_context().get_node_id()
        if here != self.node:
            (self.marks / "refused").touch()
            raise LineageError(f"data/corpus: expected hash new, got old on {here[:6]}")
        return lambda unit: self.run(here)

    def run(self, here: str) -> str:
        wait_for((self.marks / "refused").exists)
        time.sleep(0.2)  # until the objection has arrived
        return here


@dataclass(frozen=True)
class HeldOn:
    """A work as it is; on one node its units go on until that node ends, and those of others wait for one there."""

    work: Work
    node: str
    marks: Path

    def open(self) -> Callable[[Any], Any]:
        run, here = self.work.open(), ray.get_runtime_context().get_node_id()
        return lambda unit: self.run(run, here, unit)

    @property
    def held(self) -> Path:
        """Is there as soon as a unit is on that node."""
        return self.marks / "held"

    def run(self, run: Callable[[Any], Any], here: str, unit: Any) -> Any:
        if here == self.node:
            self.held.touch()
            time.sleep(600)
        wait_for(self.held.exists)
        return run(unit)


@dataclass(frozen=True)
class Damaged:
    """Unit 2 meets a damaged file."""

    def open(self) -> Callable[[int], int]:
        return self.run

    def run(self, unit: int) -> int:
        if unit == 2:
            raise DataError("pairs-00000.parquet: expected a shard, got no file")
        return unit


@dataclass(frozen=True)
class Large:
    """Results of so many bytes each."""

    size: int

    def open(self) -> Callable[[int], np.ndarray]:
        return lambda unit: np.full(self.size, unit, dtype=np.uint8)


@dataclass(frozen=True)
class Hungry:
    """Unit 3 takes so many bytes the first time, and waits for what happens."""

    marks: Path
    num_bytes: int

    def open(self) -> Callable[[int], int]:
        return self.run

    def run(self, unit: int) -> int:
        if unit == 3 and not (self.marks / "taken").exists():
            (self.marks / "taken").touch()
            taken = np.ones(self.num_bytes, dtype=np.uint8)
            time.sleep(60)
            return int(taken[0])
        return -unit
