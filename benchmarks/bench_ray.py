"""What do workers of a Ray cluster gain for embedding and drawing, and what does the cluster cost a small job?

    python benchmarks/bench_ray.py [--root .] [--pairs 1536] [--prompts 6] [--workers 1 2 3] [--rounds 2]

The same units, 64 images or one picture each, by this process on one core and by 1, 2 and 3 workers of a cluster on
this machine, in turns. On the clock, and by the processor time that the units took: the latter tells the truth on a
machine with other work. The ideal of n workers on c cores is min(n, c) times this process. What a small job pays is the
start of the cluster and `open s`: until all workers run, have opened the work and done a unit; that of this process
is without a unit.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.cluster_utils import Cluster

from rag_diffusion import layout
from rag_diffusion.config import RayConfig, load_config
from rag_diffusion.corpus.prompts import load_prompts
from rag_diffusion.engine.cluster import connect
from rag_diffusion.engine.work import Work
from rag_diffusion.engine.workers import RayEngine
from rag_diffusion.files import tree_hash
from rag_diffusion.retrieval.encoder import Encoder
from rag_diffusion.retrieval.neighbor_table import NeighborTable
from rag_diffusion.retrieval.spread import IMAGES_OF_A_UNIT, EmbedPairs
from rag_diffusion.sampling.batches import Batch, DrawBatches
from rag_diffusion.store.corpus import Corpus


@dataclass(frozen=True)
class Timed:
    """A work whose results are who did it, by the number of the process, and the processor seconds that it took."""

    work: Work

    def open(self) -> Callable[[Any], tuple[int, float]]:
        """See `Work.open`."""
        run = self.work.open()

        def timed(unit: Any) -> tuple[int, float]:
            begun = time.process_time()
            run(unit)
            return os.getpid(), time.process_time() - begun

        return timed


def measured(work: Work, units: list[Any], counts: Sequence[int], rounds: int, address: str) -> dict[int, Any]:
    """Seconds by number of workers, 0 for this process: until all have opened the work, then the best of the rounds."""
    begun = time.monotonic()
    here = Timed(work).open()
    best = {0: {"open_s": time.monotonic() - begun, "clock_s": np.inf, "cpu_s": np.inf}}

    def timed(count: int, done: Iterable[tuple[int, float]]) -> None:
        begun = time.monotonic()
        found = {"cpu_s": sum(seconds for _, seconds in done), "clock_s": time.monotonic() - begun}
        best[count] |= {name: min(best[count][name], seconds) for name, seconds in found.items()}

    for count in counts:
        engine = RayEngine(RayConfig(address=address, workers=count))
        begun = time.monotonic()
        at_work = set[int]()
        while len(at_work) < count:
            at_work |= {process for process, _ in engine.map(Timed(work), units[:1] * count)}
        best[count] = {"open_s": time.monotonic() - begun, "clock_s": np.inf, "cpu_s": np.inf}
        for _ in range(rounds):
            timed(0, map(here, units))
            timed(count, engine.map(Timed(work), units))
        engine.close()
    return best


def main() -> None:
    """Print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--pairs", type=int, default=1536)
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    root, config = options.root.resolve(), load_config(options.root / "params.yaml")
    corpus = Corpus.open(root / layout.CORPUS)
    blocks = np.arange(options.pairs).reshape(-1, IMAGES_OF_A_UNIT)
    embed = EmbedPairs(
        root=root, device="cpu", corpus_hash=corpus.hash, encoder_hash=Encoder(root / layout.ENCODER).hash
    )
    model, table = root / layout.MODEL, NeighborTable.open(root / layout.NEIGHBORS, corpus)
    prompts = load_prompts(root, "default", corpus)[: options.prompts]
    draw = DrawBatches(root=root, model=model, config=config, corpus_hash=corpus.hash, model_hash=tree_hash(model))
    batches = [
        Batch(variant="retrieved", prompts=[one], neighbors=[table.prompts[one.prompt_id]], begin={}) for one in prompts
    ]
    begun = time.monotonic()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}  # workers have this process's priority
    node = {"num_cpus": max(options.workers), "object_store_memory": 2**27, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    connect(RayConfig(address=cluster.address))
    started = time.monotonic() - begun
    try:
        works: dict[str, tuple[Work, list[Any]]] = {"embed": (embed, list(blocks)), "draw": (draw, batches)}
        found = {
            name: measured(work, units, options.workers, options.rounds, cluster.address)
            for name, (work, units) in works.items()
        }
    finally:
        ray.shutdown()
        cluster.shutdown()
    cores = len(os.sched_getaffinity(0))
    print(f"the cluster took {started:.1f} s to start; {cores} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{'work':6} {'workers':>7} {'open s':>7} {'clock s':>8} {'cpu s':>7} {'units/s':>8} {'of ideal':>8}")
    for name, best in found.items():
        count = len(works[name][1])
        for workers, row in best.items():
            row["units_per_s"] = count / row["clock_s"]
            row["of_ideal"] = best[0]["clock_s"] / row["clock_s"] / max(1, min(workers, cores))
            figures = f"{row['open_s']:7.1f} {row['clock_s']:8.1f} {row['cpu_s']:7.1f} {row['units_per_s']:8.2f}"
            print(f"{name:6} {workers or 'here':>7} {figures} {row['of_ideal']:8.2f}")
    print(json.dumps({"cores": cores, "start_s": started, "rows": found}))


if __name__ == "__main__":
    main()
