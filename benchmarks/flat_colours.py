"""Drawings in few flat colours: are they recognised more often as the thing and the style asked for?

    python benchmarks/flat_colours.py [--root .] [--steps 10] [--rest]

Draws validation prompts by data/model with retrieved neighbors on the same noise, by each kind of thresholding, and
enlarges them by its super-resolution stage. The ruler judges what the first stage drew, and the finished pictures
scaled down by a box filter, as the stage `score` does. By default the fixed third of the prompts, or the rest. Prompts
for which fewer than two styles would give prototypes are left out, and counted. Prints Markdown tables, with paired
intervals over entities.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from rag_diffusion.arrays import Doubles, Pixels
from rag_diffusion.config import load_config
from rag_diffusion.layout import MODEL
from rag_diffusion.metrics.judge import METRICS
from rag_diffusion.metrics.scoring import Bench, entity_bootstrap
from rag_diffusion.metrics.validation_prompts import ValidationPrompts
from rag_diffusion.sampling.drawing import Asked, VariantSampler
from rag_diffusion.sampling.threshold import Thresholding

KINDS: Sequence[Thresholding] = ("static", "palette")


def main() -> None:
    """Draw, judge, print."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--root", type=Path, default=Path())
    arguments.add_argument("--steps", type=int, default=10)
    arguments.add_argument("--rest", action="store_true", help="the prompts that are not of the fixed third")
    given = arguments.parse_args()
    root = given.root.resolve()
    config = load_config(root / "params.yaml")
    settings = {"prompts": "validation", "num_inference_steps": given.steps}
    bench = Bench.open(root, config.model_copy(update={"sample": config.sample.model_copy(update=settings)}))
    asked = [prompt for prompt in bench.prompts if prompt.default is not given.rest]
    bench = replace(bench, prompts=asked).with_prototypes()
    prompts = bench.prompts
    print(f"{len(prompts)} of {len(asked)} prompts")
    looks = bench.ruler.look(bench.trunk, bench.corpus.pixels(bench.candidates), desc="look at the corpus")
    validation = ValidationPrompts(root=root, bench=bench, judge=bench.judge(looks.entity))
    right: dict[tuple[str, Thresholding], dict[str, Doubles]] = {}
    for kind in KINDS:
        sample = bench.config.sample.model_copy(update={"thresholding": kind})
        drawing = VariantSampler(
            root=root,
            model=root / MODEL,
            config=config.model_copy(update={"sample": sample}),
            corpus=bench.corpus,
            table=bench.table,
        )
        wanted = [Asked(variant="retrieved", prompts=prompts)]
        drawn = drawing.draw_all(wanted)
        enlarged = drawing.enlarge_all(wanted, drawn)
        pictures = {"first stage": drawn[0].pixels}
        if enlarged is not None:
            pictures["finished"] = scaled(enlarged[0].pixels, bench.corpus.image_size)
        for stage, pixels in pictures.items():
            verdicts = validation.verdicts(pixels)
            right[stage, kind] = {metric: np.asarray(verdicts.values(metric), np.float64) for metric in METRICS}
    bootstrap = entity_bootstrap(prompts, config)
    print("| pictures | thresholding | " + " | ".join(METRICS) + " |\n|---|---|" + "---|" * len(METRICS))
    for (stage, kind), values in right.items():
        print(f"| {stage} | {kind} | " + " | ".join(f"{values[metric].mean():.3f}" for metric in METRICS) + " |")
    for stage, kind in right:
        if kind != "static":
            pairs = ((right[stage, kind][metric], right[stage, "static"][metric]) for metric in METRICS)
            found = (bootstrap.difference(*pair).as_dict() for pair in pairs)
            told = (f"{one['mean']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]" for one in found)
            print(f"| {stage} | {kind} - static | " + " | ".join(told) + " |")


def scaled(pictures: Pixels, size: int) -> Pixels:
    """Pictures (P, H, W, 3) at another size, by a box filter."""
    return np.stack([np.asarray(Image.fromarray(one).resize((size, size), Image.Resampling.BOX)) for one in pictures])


if __name__ == "__main__":
    main()
