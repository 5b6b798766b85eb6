"""The super-resolution stage against plain upsampling of the same small pictures: real ones, and drawn ones.

python benchmarks/bench_cascade.py --root . --stage data/upsampler --count 64 --levels 0,40 --steps 4 --out out.json

Real pictures are those of validation pairs. With --drawn they are also drawn: validation prompts with their retrieved
neighbors, by data/model of a finished run, and judged. Both against the same drawings rendered at the large size.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rag_diffusion import layout
from rag_diffusion.arrays import Doubles, Ints, Pixels
from rag_diffusion.config import load_config
from rag_diffusion.files import tree_hash
from rag_diffusion.metrics.distances import paired_kid
from rag_diffusion.metrics.judge import METRICS
from rag_diffusion.metrics.ruler.trunk import Trunk
from rag_diffusion.metrics.validation_prompts import ValidationPrompts
from rag_diffusion.metrics.variants import real_rows
from rag_diffusion.models.codec import images_to_pixels
from rag_diffusion.models.super_resolution import SuperResolution, load_upsampler
from rag_diffusion.sampling.cascade import Upsampling
from rag_diffusion.sampling.cascade_stages import CascadeStage, StageSettings
from rag_diffusion.sampling.drawing import VariantSampler
from rag_diffusion.sampling.samples import pictures_at
from rag_diffusion.store.corpus import Corpus

PLAIN = {
    "nearest": Image.Resampling.NEAREST,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def resized(pixels: Pixels, size: int, how: Image.Resampling) -> Pixels:
    """`pixels` (N, H, W, 3) at another side, `size`, by Pillow's filter `how`."""
    return np.stack([np.asarray(Image.fromarray(image).resize((size, size), how)) for image in pixels])


def gradients(pixels: Pixels) -> Doubles:
    """(N,) how steep edges are: the 99th percentile of the gradient of luminance, of 255, by image."""
    gray = pixels.astype(np.float64).mean(-1)
    steep = np.hypot(np.diff(gray, axis=1)[:, :, :-1], np.diff(gray, axis=2)[:, :-1])
    steepest: Doubles = np.percentile(steep.reshape(len(pixels), -1), 99, axis=1)
    return steepest


def grain(pixels: Pixels, real: Pixels) -> float:
    """Mean deviation, of 255, from the mean of 4 x 4 pixels, where the real drawing `real` has one colour there."""
    blocks, flat = (_blocks(part) for part in (pixels, real))
    still = flat.std(axis=3).max(axis=-1) < 0.5
    return float(blocks.std(axis=3).mean(axis=-1)[still].mean())


def _blocks(pixels: Pixels) -> Doubles:
    count, height, width, _ = pixels.shape
    parts = pixels.reshape(count, height // 4, 4, width // 4, 4, 3).swapaxes(2, 3)
    return parts.reshape(count, height // 4, width // 4, 16, 3).astype(np.float64)


def enlarged(
    model: SuperResolution, low: Pixels, captions: Sequence[str], settings: Sequence[StageSettings], precision: str
) -> tuple[dict[str, Pixels], dict[str, float]]:
    """Pictures by plain filters and by the stage, and the latter's processor seconds a picture."""
    made = {name: resized(low, model.image_size, how) for name, how in PLAIN.items()}
    seconds = {}
    for each in settings:
        stage = CascadeStage(model=model, settings=each)
        start = time.process_time()
        drawn = Upsampling(stage=stage, settings=each, precision=precision).run(low, captions, list(range(len(low))))
        name = f"ours, {each.num_inference_steps} steps, s = {each.noise_level}"
        seconds[name] = (time.process_time() - start) / len(low)
        made[name] = images_to_pixels(drawn).numpy()
    return made, seconds


def measured(made: Mapping[str, Pixels], real: Pixels, low: Pixels, trunk: Trunk) -> dict[str, dict[str, Any]]:
    """A row for each way of enlarging `low`, against `real` ones of the large size."""
    features = {name: trunk.embed(pixels, desc=name).pooled for name, pixels in {"real": real, **made}.items()}
    table = {}
    for name, pixels in {"real": real, **made}.items():
        error = (pixels.astype(np.float64) - real) / 127.5
        down = resized(pixels, low.shape[1], Image.Resampling.BOX).astype(np.float64)
        table[name] = {
            "kid": paired_kid(features[name], features["real"]),
            "mse": float((error**2).mean()),
            "edge": float(gradients(pixels).mean()),
            "grain": grain(pixels, real),
            "scaled_down_mse": float((((down - low) / 127.5) ** 2).mean()),
        }
    return table


def of_real(corpus: Corpus, count: int) -> tuple[Pixels, list[str], Sequence[str]]:
    """Small pictures of validation pairs, their captions, and their ids."""
    validation = np.flatnonzero(corpus.column("split") == "validation")
    rows: Ints = np.sort(np.random.default_rng(1).permutation(validation)[:count])
    return corpus.pixels(rows), corpus.cells("caption", rows), corpus.ids(rows)


def main() -> None:
    """Print a table and write it, and the pictures beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--stage", type=Path, required=True)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--drawn", type=int, default=0, help="validation prompts that are drawn and judged besides")
    parser.add_argument("--levels", default="0,40")
    parser.add_argument("--steps", default="4")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    corpus, config = Corpus.open(options.root / layout.CORPUS), load_config(options.root / "params.yaml")
    model = load_upsampler(options.stage)
    model.fingerprint = tree_hash(options.stage)
    settings = [
        StageSettings(num_inference_steps=steps, noise_level=level)
        for steps in map(int, options.steps.split(","))
        for level in map(int, options.levels.split(","))
    ]
    trunk = Trunk(model.image_size)
    report: dict[str, Any] = {"stage": model.fingerprint}
    pictures: dict[str, Pixels] = {}

    def compare(kind: str, low: Pixels, captions: Sequence[str], targets: Sequence[str]) -> dict[str, Pixels]:
        real = np.stack(pictures_at(corpus, targets, model.image_size))
        made, seconds = enlarged(model, low, captions, settings, options.precision)
        report[kind] = measured(made, real, low, trunk)
        for name, row in report[kind].items():
            row["cpu_seconds"] = seconds.get(name)
            print(kind, name, {key: value if value is None else round(value, 5) for key, value in row.items()})
        pictures.update({f"{kind}, {name}": pixels for name, pixels in {"low": low, "real": real, **made}.items()})
        return made

    compare("real", *of_real(corpus, options.count))
    if options.drawn:
        validation = ValidationPrompts.open(options.root, config, options.drawn)
        prompts, table, folder = validation.prompts, validation.bench.table, options.root / layout.MODEL
        sampler = VariantSampler(root=options.root, model=folder, config=config, corpus=corpus, table=table)
        low = sampler.draw("retrieved", prompts).pixels
        targets = corpus.ids(real_rows(corpus, prompts))
        made = compare("drawn", low, [prompt.text for prompt in prompts], targets)
        for name, pixels in {"first stage": low, **made}.items():
            verdicts = validation.verdicts(resized(pixels, low.shape[1], Image.Resampling.BOX))
            accuracies = {metric: float(verdicts.values(metric).mean()) for metric in METRICS}
            report["drawn"].setdefault(name, {}).update(accuracies)
            print("drawn", name, accuracies)
    report["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    np.savez_compressed(options.out.with_suffix(".npz"), allow_pickle=False, **pictures)


if __name__ == "__main__":
    main()
