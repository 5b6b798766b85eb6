"""What workers of a Ray cluster gain for `ingest` and `kb add`: processor time of a candidate, there and here.

python benchmarks/bench_ray_ingest.py PROJECT
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rag_diffusion.config import RayConfig
from rag_diffusion.corpus.rendering import by_workers
from rag_diffusion.engine.cluster import engine_of
from rag_diffusion.knowledge.ingest import BATCH, EmbedCandidates
from rag_diffusion.layout import CORPUS, ENCODER
from rag_diffusion.readers.batches import in_batches
from rag_diffusion.readers.checked import to_pair
from rag_diffusion.readers.records import Item
from rag_diffusion.retrieval.encoder import Encoder
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.store.manifest import Manifest


def timed(what: str, count: int, run: Callable[[], Any]) -> Any:
    """Say what processor and wall time of this process a candidate costs; the result of `run`."""
    processor, wall = time.process_time(), time.perf_counter()
    result = run()
    times = (time.process_time() - processor, time.perf_counter() - wall)
    print(
        f"{what:34} {count:5} candidates, {1e3 * times[0] / count:8.3f} ms of processor, {1e3 * times[1] / count:.3f}"
    )
    return result


def items_of(corpus: Corpus, suffix: str, count: int) -> list[Item]:
    """Pairs of a corpus as files: their drawings, or their pictures."""
    pairs = (corpus.pair(name) for name in corpus.column("pair_id")[:count])
    return [
        Item(name=f"{number}{suffix}", image=content, caption=pair.caption)
        for number, pair in enumerate(pairs)
        if (content := pair.original if suffix == ".svg" else pair.image)
    ]


def main(root: Path, drawings: int, pictures: int, embedded: int) -> None:
    """Measure each kind of work here, and then by the workers of a cluster of this machine."""
    corpus = Corpus.open(root / CORPUS)
    svg, png = items_of(corpus, ".svg", drawings), items_of(corpus, ".png", pictures)
    check = partial(to_pair, data_set="bench", size=64, licence="-", attribution="-")
    engine = timed("a cluster of this machine starts", 1, lambda: engine_of(RayConfig()))
    timed("its workers start", 1, lambda: list(by_workers(engine, check, png[:300])))
    kinds: Sequence[tuple[str, list[Item]]] = (("drawings, SVG", svg), ("pictures, PNG of 64 pixels", png))
    for name, items in kinds:
        here = timed(f"{name}, here", len(items), lambda items=items: list(map(check, items)))
        there = timed(
            f"{name}, given", len(items), lambda items=items: [pair for _, pair in by_workers(engine, check, items)]
        )
        assert there == here
    hashed = Encoder(root / ENCODER, device="cpu").hash
    facts = Manifest(name="bench", form="items", image_size=64, encoder_hash=hashed)
    work, batches = (
        EmbedCandidates(facts=facts, encoder=root / ENCODER, device="cpu"),
        list(in_batches(svg[:embedded], BATCH)),
    )
    embed = work.open()
    embed(batches[0])
    list(engine.map(work, batches[:4]))
    here = timed("kb add, here, on one core", embedded, lambda: list(map(embed, batches)))
    there = timed("kb add, given", embedded, lambda: list(engine.map(work, batches)))
    assert all(
        (one.image == other.image).all() and one.pairs == other.pairs for one, other in zip(here, there, strict=True)
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", type=Path)
    parser.add_argument("--drawings", type=int, default=1024)
    parser.add_argument("--pictures", type=int, default=3072)
    parser.add_argument("--embedded", type=int, default=256)
    given = parser.parse_args()
    main(given.project, given.drawings, given.pictures, given.embedded)
