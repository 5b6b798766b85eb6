"""The super-resolution stage against plain upsampling, from real low-resolution pictures of validation entities.

python benchmarks/bench_cascade.py --root . --stage pipelines/upsample/result --count 64 --levels 0,40 --out out.json
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rag_diffusion import layout
from rag_diffusion.arrays import Doubles, Pixels
from rag_diffusion.files import tree_hash
from rag_diffusion.metrics.distances import paired_kid
from rag_diffusion.metrics.ruler.trunk import Trunk
from rag_diffusion.models.codec import images_to_pixels
from rag_diffusion.models.super_resolution import load_upsampler
from rag_diffusion.readers.images import render_svg
from rag_diffusion.sampling.cascade import Upsampling
from rag_diffusion.sampling.cascade_stages import CascadeStage, StageSettings
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
    return np.percentile(steep.reshape(len(pixels), -1), 99, axis=1)


def main() -> None:
    """Print a table and write it, and the pictures beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--stage", type=Path, required=True)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--levels", default="0,40")
    parser.add_argument("--steps", default="10")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    corpus = Corpus.open(options.root / layout.CORPUS)
    validation = np.flatnonzero(corpus.column("split") == "validation")
    rows = np.sort(np.random.default_rng(1).permutation(validation)[: options.count])
    names = corpus.ids(rows)
    model = load_upsampler(options.stage)
    model.fingerprint = tree_hash(options.stage)
    size, low = model.image_size, corpus.pixels(rows)
    real = np.stack([np.asarray(render_svg(corpus.pair(name).original or b"", size, name)) for name in names])
    made = {name: resized(low, size, how) for name, how in PLAIN.items()}
    seconds: dict[str, float] = {}
    for steps in map(int, options.steps.split(",")):
        for level in map(int, options.levels.split(",")):
            settings = StageSettings(num_inference_steps=steps, noise_level=level)
            work = Upsampling(
                stage=CascadeStage(model=model, settings=settings), settings=settings, precision=options.precision
            )
            name, start = f"ours, {steps} steps, s = {level}", time.process_time()
            drawn = work.run(low, corpus.cells("caption", rows), list(range(len(rows))))
            seconds[name] = (time.process_time() - start) / len(rows)
            made[name] = images_to_pixels(drawn).numpy()
    trunk = Trunk(size)
    torch.manual_seed(0)
    features = {name: trunk.embed(pixels, desc=name).pooled for name, pixels in {"real": real, **made}.items()}
    table = {}
    for name, pixels in {"real": real, **made}.items():
        error = (pixels.astype(np.float64) - real).reshape(len(real), -1) / 127.5
        down = resized(pixels, low.shape[1], Image.Resampling.BOX).astype(np.float64)
        table[name] = {
            "kid": paired_kid(features[name], features["real"]),
            "mse": float((error**2).mean()),
            "edge": float(gradients(pixels).mean()),
            "scaled_down_mse": float((((down - low) / 127.5) ** 2).mean()),
            "cpu_seconds": seconds.get(name),
        }
        print(name, table[name])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(
        json.dumps({"stage": model.fingerprint, "rows": names, "peak_gib": peak, "table": table}, indent=1) + "\n"
    )
    np.savez_compressed(options.out.with_suffix(".npz"), low=low, real=real, **made)


if __name__ == "__main__":
    main()
