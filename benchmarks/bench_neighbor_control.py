"""What do masks, curves and weights of neighbors cost, and do two masked neighbors draw two things side by side?

    python benchmarks/bench_neighbor_control.py cost [--model data/base] [--images 8] [--rounds 15]
    python benchmarks/bench_neighbor_control.py joint [--root .] [--model data/base] [--pairs 42] [--out FOLDER]

`cost`: one step with three neighbors, plain and controlled; the variants take turns, told is the median of CPU time.
`joint`: pairs of validation entities in one prompt, each with two drawings of it in other styles; a half of a drawing
shows an entity where the ruler ranks it first of all candidates, looking at the box of what is not white there, on a
white square; both orders count. Prints tables and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from rag_diffusion import layout
from rag_diffusion.arrays import Pixels
from rag_diffusion.corpus.prompts import load_prompts
from rag_diffusion.device import autocast
from rag_diffusion.metrics.bootstrap import ClusterBootstrap
from rag_diffusion.metrics.ruler.entity import Prototypes
from rag_diffusion.metrics.ruler.store import Ruler, load_ruler
from rag_diffusion.metrics.ruler.trunk import Trunk
from rag_diffusion.metrics.two_entities import TwoPrompt, can_be_judged, collage, two_entity_prompts
from rag_diffusion.models.load import load_generator
from rag_diffusion.models.neighbor_batch import Neighbor, framed_pixels, neighbors_from
from rag_diffusion.models.text_encoder import TextFeatures
from rag_diffusion.sampling.conditioning import Conditioning
from rag_diffusion.sampling.guidance import Guidance, GuidanceStep
from rag_diffusion.sampling.guided import GuidedPrediction
from rag_diffusion.sampling.neighbor_cache import NeighborCache
from rag_diffusion.sampling.output import as_arrays
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.schedule import RetrievalSchedule
from rag_diffusion.sampling.seeds import seeded
from rag_diffusion.store.corpus import Corpus

PER_ENTITY = 2  # neighbors of each entity


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["cost", "joint"])
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--model", default="data/base")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=42)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with torch.inference_mode():
        print(json.dumps(cost(given) if given.part == "cost" else joint(given)))


def cost(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a step: the choice of the step's weights and the guided prediction, as the loop does them."""
    generator = load_generator(given.model, given.device)
    size, images = generator.image_size, given.images
    draws = np.random.default_rng(0)
    plain = [
        Neighbor(image=draws.integers(0, 256, (size, size, 3), dtype=np.uint8), caption="a red apple") for _ in range(3)
    ]
    controls: dict[str, dict[str, Any]] = {
        "plain": {},
        "curve": {"weight_by_step": "linear"},
        "weight by map": {"weight_by_map": "style"},
        "mask": {"mask": "left"},
        "mask, curve and weight by map": {"mask": "left", "weight_by_step": "linear", "weight_by_map": {16: 2.0}},
    }
    width = generator.unet.config.encoder_hid_dim or generator.unet.config.cross_attention_dim
    text, null = (TextFeatures(torch.randn(images, 32, width).to(given.device)) for _ in range(2))
    guided = GuidedPrediction(generator=generator, guidance=Guidance(), text=text, null=null)
    sample = torch.randn(images, *generator.sample_shape, device=given.device)
    timestep = torch.tensor(500, device=given.device)
    calls: dict[str, Callable[[], object]] = {}
    for name, control in controls.items():
        lists = [[replace(one, **control) for one in plain]] * images
        conditioning = Conditioning(
            cache=NeighborCache(generator), lists=lists, phases=RetrievalSchedule().phases(20), find=None, num_steps=20
        )
        conditioning.at(0, _nothing)
        for kind in (GuidanceStep.TEXT, GuidanceStep.NEIGHBOR):

            def call(conditioning: Conditioning = conditioning, kind: GuidanceStep = kind) -> None:
                conditioning.at(10, _nothing)
                with autocast("auto", torch.device(given.device)), conditioning:
                    guided(sample, timestep, [kind] * images, conditioning.seen, conditioning.shown)

            calls[f"{kind.value}: {name}"] = call
    clock = time.perf_counter if given.device == "cuda" else time.process_time  # what others run does not count
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(given.rounds + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if given.device == "cuda":
                torch.cuda.synchronize()
            if number:  # the first round warms up
                seconds[name].append(clock() - start)
    found: dict[str, Any] = {}
    for name, spent in seconds.items():
        peer = seconds[f"{name.split(':')[0]}: plain"]
        ratio = statistics.median(own / other for own, other in zip(spent, peer, strict=True))
        found[name] = {"ms": round(1000 * statistics.median(spent), 1), "best": round(1000 * min(spent), 1),
                       "ratio": round(ratio, 4), "best_ratio": round(min(spent) / min(peer), 4)}  # fmt: skip
        print(f"{name:45} {found[name]}")
    return found


def _nothing() -> Pixels:
    raise AssertionError("nothing is looked for again")


def joint(given: argparse.Namespace) -> dict[str, Any]:
    """Share of the pairs of which both, and either, are recognised in their halves."""
    corpus = Corpus.open(given.root / layout.CORPUS)
    ruler = load_ruler(given.root / layout.RULER)
    trunk = Trunk(ruler.image_size)
    table = corpus.table[corpus.table["split"] == "validation"]
    looks = ruler.look(trunk, corpus.pixels(corpus.rows(table["pair_id"].tolist())), desc="prototypes")
    prototypes = Prototypes(looks.entity, table["entity"].tolist(), table["style"].tolist())
    prompts = [
        prompt
        for prompt in load_prompts(given.root, "validation", corpus)
        if prompt.default and prompt.entity in prototypes.entities
    ]
    chosen: list[tuple[TwoPrompt, list[list[str]], frozenset[str]]] = []
    for two in two_entity_prompts(prompts, corpus.manifest["style_words"]):
        names = [_drawings(table, prompt) for prompt in (two.first, two.second)]
        shown = corpus.table.iloc[corpus.rows([name for own in names for name in own])]
        hidden = frozenset({two.prompt.style, *shown["style"]})
        if can_be_judged(prototypes, hidden):
            chosen.append((two, names, hidden))
    chosen = chosen[: given.pairs]
    pipeline = RetrievalPipeline.from_pretrained(given.model, precision="fp32", device=given.device)
    variants: dict[str, list[dict[str, Any]]] = {
        "no neighbors": [],
        "without masks": [{}, {}],
        "masks": [{"mask": "left"}, {"mask": "right"}],
        "masks, pictures not fitted": [{"mask": side, "fit_mask": False} for side in ("left", "right")],
    }
    pixels: dict[str, Pixels] = {}
    for name, controls in variants.items():
        drawn = []
        for start in range(0, len(chosen), 14):
            batch = chosen[start : start + 14]
            lists = [
                [
                    replace(neighbor, **control)
                    for own, control in zip(names, controls, strict=False)
                    for neighbor in neighbors_from(corpus, own)
                ]
                for _, names, _ in batch
            ]
            out = pipeline(
                [two.prompt.text for two, _, _ in batch],
                lists,
                generator=seeded([two.prompt.seed for two, _, _ in batch]),
            )
            drawn.append(as_arrays(out.images))
        pixels[name] = np.concatenate(drawn)
        print(f"drawn: {name}", flush=True)
    targets = [_real(corpus, table, two) for two, _, _ in chosen]
    pixels["real drawings, side by side"] = np.stack([collage(*pair) for pair in targets])
    bootstrap = ClusterBootstrap([two.first.entity for two, _, _ in chosen], draws=10000, seed=0)
    report: dict[str, Any] = {"pairs": len(chosen)}
    for name, images in pixels.items():
        values = _verdicts(ruler, trunk, prototypes, images, chosen)
        report[name] = {
            "either": bootstrap.interval(values[:, 0]).as_dict(),
            "both": bootstrap.interval(values[:, 1]).as_dict(),
        }
        print(f"{name:30} {report[name]}")
        if given.out is not None:
            given.out.mkdir(parents=True, exist_ok=True)
            rows = [
                np.concatenate(list(images[start : start + 14]), axis=1)
                for start in range(0, len(images) // 14 * 14, 14)
            ]
            sheet = Image.fromarray(np.concatenate(rows))
            sheet.resize((sheet.width * 2, sheet.height * 2)).save(given.out / f"{name.replace(' ', '-')}.png")
    return report


def _drawings(table: Any, prompt: Any) -> list[str]:
    """The first drawings of an entity in styles other than the one asked for."""
    own = table[(table["entity"] == prompt.entity) & (table["style"] != prompt.style)]
    return sorted(own["pair_id"])[:PER_ENTITY]


def _real(corpus: Corpus, table: Any, two: TwoPrompt) -> tuple[Pixels, Pixels]:
    """What was asked for: the drawings of both entities in the style."""
    first, second = (
        table[(table["entity"] == prompt.entity) & (table["style"] == prompt.style)]["pair_id"].iloc[0]
        for prompt in (two.first, two.second)
    )
    left, right = corpus.pixels(corpus.rows([first, second]))
    return left, right


def _verdicts(
    ruler: Ruler,
    trunk: Trunk,
    prototypes: Prototypes,
    images: Pixels,
    chosen: list[tuple[TwoPrompt, list[list[str]], frozenset[str]]],
) -> np.ndarray[Any, Any]:
    """(P, 2): an entity in one of the halves, both in different halves."""
    middle = images.shape[2] // 2
    halves = [ruler.look(trunk, np.stack([_content(half) for half in part])).entity
              for part in (images[:, :, :middle], images[:, :, middle:])]  # fmt: skip
    values = np.zeros((len(images), 2))
    for row, (two, _, hidden) in enumerate(chosen):
        asked = (prototypes.number(two.first.entity), prototypes.number(two.second.entity))
        seen = tuple(int(prototypes.similarities(half[row : row + 1], hidden)[0].argmax()) for half in halves)
        values[row] = bool({*asked} & {*seen}), set(asked) == set(seen)
    return values


def _content(half: Pixels) -> Pixels:
    """The box of what is not white, on a white square of 64 pixels."""
    dark = (half < 235).any(2)
    if not dark.any():
        return framed_pixels(half, 64)
    rows, columns = np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))
    return framed_pixels(np.ascontiguousarray(half[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]), 64)


if __name__ == "__main__":
    main()
