"""A cluster of one node whose memory, or whose store and disk, are short; run in a process of its own.

    python -m tests.unit.engine.short_of_room memory MARKS
    python -m tests.unit.engine.short_of_room disk MARKS

Prints what a work of six units gives, or the error that it ends in.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from ray._private.utils import get_system_memory, get_used_memory

from rag_diffusion.engine.work import Work
from rag_diffusion.errors import RagDiffusionError
from tests.unit.engine.nodes import NODE, STORE_BYTES
from tests.unit.engine.works import Hungry, Large

ROOM = 3 * 2**30  # bytes that all of this machine may take beside what they have now


def main(kind: str, marks: Path) -> None:
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    work: Work = Hungry(marks, 3 * ROOM // 2)
    if kind == "memory":
        room = (get_used_memory() + ROOM) / get_system_memory()
        os.environ |= {"RAY_memory_usage_threshold": f"{room:.4f}", "RAY_memory_monitor_refresh_ms": "100"}
    else:
        os.environ |= {"RAY_local_fs_capacity_threshold": "0.0001"}  # the disk counts as full
        work = Large(STORE_BYTES + 2**24)
    import ray
    from ray.cluster_utils import Cluster

    from rag_diffusion.config import RayConfig
    from rag_diffusion.engine.cluster import engine_of

    made = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False, "no_monitor": True})
    try:
        print(list(engine_of(RayConfig(address=made.address)).map(work, range(6))))
    except RagDiffusionError as error:
        print(f"{type(error).__name__}: {error}")
    finally:
        ray.shutdown()
        made.shutdown()


if __name__ == "__main__":
    logging.basicConfig(level="WARNING")
    main(sys.argv[1], Path(sys.argv[2]))
