"""A cluster of two nodes on this machine, each with one core of its own and a small store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rag_diffusion.config import RayConfig
from rag_diffusion.engine.cluster import connect, engine_of
from tests.unit.engine.nodes import NODE

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

    from rag_diffusion.engine.workers import RayEngine


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two nodes; a test may add one, and kill that."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # else they hardly work where cores are busy
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False, "no_monitor": True})
    made.add_node(**NODE)
    connect(RayConfig(address=made.address))
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="session")
def ray_config(cluster: Cluster) -> RayConfig:
    return RayConfig(address=cluster.address)


@pytest.fixture
def engine(ray_config: RayConfig) -> RayEngine:
    """Workers on both nodes; those of the test before."""
    return engine_of(ray_config)


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    """A folder in which units leave marks."""
    path = tmp_path / "marks"
    path.mkdir()
    return path
