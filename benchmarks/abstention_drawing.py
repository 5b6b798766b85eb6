"""Drawings of things that the knowledge base lacks: does abstention keep wrong neighbors from doing harm?

    python benchmarks/abstention_drawing.py [--root .] [--prompts 40] [--calibration FILE]

Takes every third test entity out of the search, with its family, and draws the default prompts about those entities on
the same noise: without neighbors, with the first three hits whatever they are, and with those that pass
`retrieval.thresholds`. A drawing for which nothing passes is that without neighbors, bit for bit, and is not drawn
again. The ruler judges; prints joint, entity and style accuracy as a Markdown table.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rag_diffusion.arrays import Pixels
from rag_diffusion.config import load_config
from rag_diffusion.corpus.captions import stable_hash
from rag_diffusion.device import choose_device
from rag_diffusion.layout import MODEL
from rag_diffusion.metrics.judge import METRICS
from rag_diffusion.metrics.scoring import Bench
from rag_diffusion.models.load import load_generator
from rag_diffusion.models.neighbor_batch import neighbors_from
from rag_diffusion.retrieval.assemble import pipeline_retriever
from rag_diffusion.retrieval.calibration import Calibration
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.output import as_arrays
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.seeds import seeded
from rag_diffusion.types import Hits

BATCH = 8


def main() -> None:
    """Draw, judge, print."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--root", type=Path, default=Path())
    arguments.add_argument("--prompts", type=int, default=40)
    arguments.add_argument("--calibration", type=Path, help="another file than that of the stage index")
    given = arguments.parse_args()
    root: Path = given.root
    config = load_config("params.yaml")
    bench = Bench.open(root, config)
    entities = sorted({prompt.entity for prompt in bench.all_prompts}, key=stable_hash)
    removed = set(entities[::3])
    prompts = [prompt for prompt in bench.prompts if prompt.entity in removed][: given.prompts]
    families = {prompt.family for prompt in bench.all_prompts if prompt.entity in removed}
    lacking = np.flatnonzero(np.isin(bench.corpus.column("family"), sorted(families)))

    retriever = pipeline_retriever(root, config)
    if given.calibration:
        retriever.calibration = Calibration.load(given.calibration, encoder_hash="")
    texts, count = [prompt.text for prompt in prompts], config.retrieval.content
    rankings = list(retriever.rank(texts, depth=count, exclude=[lacking] * len(texts)))
    passing = [retriever.hits(ranking, count, text) for ranking, text in zip(rankings, texts, strict=True)]
    every = [retriever.hits(ranking, count) for ranking in rankings]
    none = [replace(hits, pair_ids=(), scores=()) for hits in every]

    generator = load_generator(root / MODEL, choose_device(config.device))
    pipeline = RetrievalPipeline(generator, scheduler=config.sample.scheduler, precision=config.sample.precision)
    pipeline.set_progress_bar_config(disable=True)

    def draw(places: Sequence[int], lists: Sequence[Hits]) -> Pixels:
        found: list[Pixels] = []
        for start in range(0, len(places), BATCH):
            batch = places[start : start + BATCH]
            drawn = pipeline(
                [texts[place] for place in batch],
                [neighbors_from(bench.corpus, lists[place].pair_ids, lists[place].scores) for place in batch],
                guidance=Guidance.from_config(config.sample),
                num_inference_steps=config.sample.num_inference_steps,
                generator=seeded([prompts[place].seed + config.seed for place in batch]),
            )
            found.append(as_arrays(drawn.images))
        return np.concatenate(found)

    all_places = list(range(len(prompts)))
    without = draw(all_places, none)
    whatever = draw(all_places, every)
    abstaining, some = without.copy(), [place for place in all_places if passing[place].pair_ids]
    if some:
        abstaining[some] = draw(some, passing)

    looks = bench.ruler.look(bench.trunk, bench.corpus.pixels(bench.candidates), desc="look at the corpus")
    judge = bench.judge(looks.entity, prompts)
    print(
        f"{len(prompts)} prompts about {len(removed)} removed entities of {len(entities)}; {len(some)} have neighbors"
    )
    print("| neighbors | " + " | ".join(METRICS) + " |\n|---|" + "---|" * len(METRICS))
    for name, pixels in (("none", without), ("first three", whatever), ("those that pass", abstaining)):
        verdicts = judge.verdicts(bench.ruler.look(bench.trunk, pixels, desc=name))
        print(f"| {name} | " + " | ".join(f"{verdicts.values(metric).mean():.3f}" for metric in METRICS) + " |")


if __name__ == "__main__":
    main()
