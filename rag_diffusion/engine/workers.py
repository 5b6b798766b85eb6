"""Workers of a Ray cluster: each opens the work once, and takes one unit after the other.

A unit whose worker dies, with its machine or alone, is given to another worker. Its result is taken from whoever
finishes it, once: what a dead worker had done of it is lost with it.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import RLock
from typing import Any, NoReturn

import ray
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from rag_diffusion.config import RayConfig
from rag_diffusion.engine.cluster import connect
from rag_diffusion.engine.units import Units
from rag_diffusion.engine.work import EVERY_SOURCE, Work, check_code
from rag_diffusion.errors import ConfigError, DataError, ModelError, RagDiffusionError, RemoteError
from rag_diffusion.files import code_hash

_LOG = logging.getLogger(__name__)

_TRIES = 3  # workers that may die of one unit
_AHEAD = 4  # units a worker that are read, and results that wait for an earlier one
_SECONDS_BETWEEN_LOOKS, _SECONDS_BETWEEN_LINES = 5.0, 60.0
_LOST = (RayActorError, WorkerCrashedError, OutOfMemoryError, NodeDiedError, ObjectLostError, LocalRayletDiedError)
_FULL = (ObjectStoreFullError, OutOfDiskError)


class Worker:
    """One process of the cluster. It is created by Ray."""

    def __init__(self) -> None:
        self._run: Callable[[Any], Any] | None = None

    def open(self, work: Work, code: str, threads: int) -> str:
        """Prepare for units of a work.

        Args:
            work: what is to be done.
            code: hash of the library's source where the units come from.
            threads: of an operation of torch.

        Returns:
            The address of this machine.

        Raises:
            LineageError: this machine has another version of the library.
            RagDiffusionError: as `Work.open`.
        """
        check_code(code)
        self._run = work.open()
        if "torch" in sys.modules:  # a work that needs none does without
            sys.modules["torch"].set_num_threads(threads)
        return str(ray.util.get_node_ip_address())

    def run(self, unit: Any) -> Any:
        """The result of a `unit` of the work that was opened."""
        assert self._run is not None
        return self._run(unit)


@dataclass(eq=False)
class _Hand:
    """A worker as this process sees it."""

    actor: Any
    address: str = "a machine that has not answered yet"


@dataclass
class _Pool:
    """The workers that have a work open or are opening it.

    Attributes:
        opening: by the call that they are at, with the work that they open: it may be that of an earlier map.
        idle: without a unit.
        busy: number of the unit, and who has it, by the call.
        refused: the last objection of a machine to the work.
    """

    work: Work
    job: str
    opening: dict[Any, tuple[_Hand, Work]] = field(default_factory=dict)
    idle: list[_Hand] = field(default_factory=list)
    busy: dict[Any, tuple[int, _Hand]] = field(default_factory=dict)
    refused: RagDiffusionError | None = None

    def __len__(self) -> int:
        return len(self.opening) + len(self.idle) + len(self.busy)

    def take_idle(self) -> list[_Hand]:
        """All workers without a unit, which are idle no more."""
        taken, self.idle = self.idle, []
        return taken

    def end(self) -> None:
        """Give the workers back to the cluster."""
        opening, busy = (hand for hand, _ in self.opening.values()), (hand for _, hand in self.busy.values())
        for hand in (*opening, *self.idle, *busy):
            ray.kill(hand.actor)


class RayEngine:
    """Runs units on the workers of a cluster; see `Engine`. Threads that map wait for each other.

    Args:
        config: the cluster, and what of it is taken.
    """

    def __init__(self, config: RayConfig) -> None:
        self._config = config
        self._pool: _Pool | None = None
        self._lock = RLock()

    def map(self, work: Work, units: Iterable[Any]) -> Iterator[Any]:
        """See `Engine.map` for `work` and `units`.

        Raises:
            RagDiffusionError: whatever the function of a unit objects to.
            ModelError: a unit has killed several workers.
            DataError: no room for results.
            RemoteError: the cluster does not answer any more.
            ConfigError: no machine of it has the cores or GPUs that a worker is given.
        """
        source = Units(units)
        if source.read_until(1):
            with self._lock:
                yield from self._results(work, source)
        if source.error is not None:
            raise source.error

    def _results(self, work: Work, units: Units) -> Iterator[Any]:
        connect(self._config)
        pool = self._pool_of(work, units)
        try:
            while not units.finished:
                most = units.given + _AHEAD * len(pool)
                while pool.idle and (units.waiting or (units.read < most and units.read_one())):
                    hand, number = pool.idle.pop(), units.waiting.popleft()
                    pool.busy[hand.actor.run.remote(units[number])] = number, hand
                ahead = len(units.waiting) < len(pool) and units.read < most and units.read_one()
                for call in self._ready(pool, units, wait=not ahead):
                    if call in pool.opening:
                        self._opened(pool, call)
                    else:
                        self._finished(pool, call, units)
                yield from units.results()
        except RayError as error:
            raise RemoteError(f"ray: expected the cluster to go on, got: {_first_line(error)}; see its logs") from None
        finally:
            if not units.finished:
                self.close()

    def close(self) -> None:
        """See `Engine.close`."""
        with self._lock:
            if self._pool is not None:
                pool, self._pool = self._pool, None
                if ray.is_initialized() and ray.get_runtime_context().get_job_id() == pool.job:
                    pool.end()

    def workers_at_most(self) -> int:
        """How many workers the cluster has room for now, and the settings allow."""
        room = sum(int(_fits(node["Resources"], self._config)) for node in ray.nodes() if node["Alive"])
        return min(room, self._config.workers or room)

    def _pool_of(self, work: Work, units: Units) -> _Pool:
        """Workers that open the work now or have it open; those of the last work open this one."""
        job = ray.get_runtime_context().get_job_id()
        if self._pool is None or self._pool.job != job:
            self._pool = _Pool(work=work, job=job)
        elif self._pool.work != work:
            self._pool.work, self._pool.refused = work, None
            for hand in self._pool.take_idle():
                self._begin(self._pool, hand)
        most = self.workers_at_most()
        if not most:
            raise ConfigError(
                f"ray: expected a machine with {self._config.cpus_per_worker:g} cores and "
                f"{self._config.gpus_per_worker:g} GPUs for a worker, got {_told(ray.nodes())}; change "
                "ray.cpus_per_worker or ray.gpus_per_worker"
            )
        for _ in range(units.read_until(most) - len(self._pool)):
            self._begin(self._pool)
        return self._pool

    def _begin(self, pool: _Pool, hand: _Hand | None = None) -> None:
        """Let a worker open the work, one more where none is given."""
        cores, gpus = self._config.cpus_per_worker, self._config.gpus_per_worker
        if hand is None:
            hand = _Hand(ray.remote(num_cpus=cores, num_gpus=gpus, scheduling_strategy="SPREAD")(Worker).remote())
        call = hand.actor.open.remote(pool.work, code_hash(EVERY_SOURCE), max(1, int(cores)))
        pool.opening[call] = hand, pool.work

    def _ready(self, pool: _Pool, units: Units, *, wait: bool) -> list[Any]:
        """Calls that have ended; where none has, the next one that does, unless nobody is to wait."""
        calls, begun = [*pool.opening, *pool.busy], time.monotonic()
        if not calls and not pool.idle:
            raise pool.refused or RemoteError("ray: expected a worker, got none; the cluster has no machine left")
        while calls:
            ready, _ = ray.wait(calls, num_returns=1, timeout=_SECONDS_BETWEEN_LOOKS if wait else 0)
            if ready or not wait:
                return list(ready)
            if time.monotonic() - begun > _SECONDS_BETWEEN_LINES:
                begun = time.monotonic()
                _LOG.warning(
                    "ray: %d units done, %d workers at work, %d that wait for room or open what they need",
                    units.given, len(pool.busy), len(pool.opening),
                )  # fmt: skip
        return []  # the source has ended just now

    def _opened(self, pool: _Pool, call: Any) -> None:
        hand, work = pool.opening.pop(call)
        try:
            hand.address = ray.get(call)
        except RayTaskError as error:
            if not isinstance(error.cause, RagDiffusionError):
                raise error.cause from None
            if work is pool.work:
                pool.refused = error.cause
                _LOG.warning("ray: a worker cannot do this work, others have to: %s", error.cause)
                ray.kill(hand.actor)
                return
        except _LOST as error:
            self._replace(pool, hand, error)
            return
        if work is pool.work:
            pool.idle.append(hand)
        else:
            self._begin(pool, hand)

    def _finished(self, pool: _Pool, call: Any, units: Units) -> None:
        number, hand = pool.busy.pop(call)
        try:
            units.finish(number, ray.get(call))
            pool.idle.append(hand)
        except _FULL as error:
            _no_room(error)
        except RayTaskError as error:
            if isinstance(error.cause, _FULL):
                _no_room(error.cause)
            raise error.cause from None
        except _LOST as error:
            if units.lose(number) == _TRIES:
                raise ModelError(
                    f"ray: expected unit {number + 1} to be done, but {_TRIES} workers died of it, the last on "
                    f"{hand.address}: {_first_line(error)}; where memory is short, give a worker more of a machine: "
                    "raise ray.cpus_per_worker or lower batch sizes"
                ) from None
            _LOG.warning("ray: unit %d is given to another worker", number + 1)
            self._replace(pool, hand, error)

    def _replace(self, pool: _Pool, hand: _Hand, error: BaseException) -> None:
        """Tell of a worker that is gone, and begin another where there is room."""
        _LOG.warning("ray: a worker on %s is gone: %s", hand.address, _first_line(error))
        ray.kill(hand.actor)  # where it is cut off alone
        if len(pool) < self.workers_at_most():
            self._begin(pool)


def _fits(resources: dict[str, float], config: RayConfig) -> float:
    """Workers for which a machine has room."""
    room = resources.get("CPU", 0.0) // config.cpus_per_worker
    return min(room, resources.get("GPU", 0.0) // config.gpus_per_worker) if config.gpus_per_worker else room


def _told(nodes: Sequence[dict[str, Any]]) -> str:
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    return "; ".join(f"{one.get('CPU', 0):g} cores and {one.get('GPU', 0):g} GPUs" for one in alive)


def _no_room(error: BaseException) -> NoReturn:
    cause = getattr(error, "cause", error)  # of one that a worker met
    raise DataError(
        f"ray: expected room for a result in the object store, got: {_first_line(cause)}; free space on the disk of "
        "that machine, start its Ray with a larger --object-store-memory, or lower batch sizes"
    ) from None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
