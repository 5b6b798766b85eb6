"""What a node of a cluster in tests has, and one that is killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from rag_diffusion.engine.work import Work
from tests.unit.engine.works import HeldOn, Squares, wait_for

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

    from rag_diffusion.engine.workers import RayEngine

STORE_BYTES = 100 * 2**20
NODE = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_log_monitor": False}


@contextmanager
def node_that_is_killed(cluster: Cluster, engine: RayEngine, marks: Path) -> Iterator[Callable[[Work], HeldOn]]:
    """A third node, killed in the middle of a unit of what it is given: a work that is held there."""
    third = cluster.add_node(**NODE)
    wait_for(lambda: engine.workers_at_most() == 3)
    assert len(list(engine.map(Squares(marks, 3), range(6)))) == 6, "a worker on each of three nodes"
    held = marks / "held"

    def kill() -> None:
        wait_for(held.exists)
        cluster.remove_node(third, allow_graceful=False)

    killing = Thread(target=kill)
    killing.start()
    try:
        yield partial(HeldOn, node=third.node_id, marks=marks)
        assert held.exists(), "a unit was on the node that was killed"
    finally:
        killing.join()
