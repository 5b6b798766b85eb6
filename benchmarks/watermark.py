"""How well the invisible watermark holds: bits that are read wrongly, after what pictures go through.

python benchmarks/watermark.py FOLDER [--pictures 48]: of PNG files below FOLDER, at 64 and at 256 px.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from rag_diffusion.arrays import Pixels
from rag_diffusion.sampling.watermark import NUM_BITS, SURE, embed, matching_bits

TEXT = "a watermark"


def jpeg(pixels: Pixels, quality: int) -> Pixels:
    """The picture out of a JPEG file of this quality, its colours at half size as usual."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def scaled(pixels: Pixels, side: int) -> Pixels:
    """The picture at another size."""
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS))


def fates(side: int) -> dict[str, Callable[[Pixels], Pixels]]:
    """What happens to a picture of `side` pixels."""
    return {
        "as drawn": lambda one: one,
        "JPEG 95": lambda one: jpeg(one, 95),
        "JPEG 90": lambda one: jpeg(one, 90),
        "JPEG 75": lambda one: jpeg(one, 75),
        "JPEG 50": lambda one: jpeg(one, 50),
        "twice the size, JPEG 90": lambda one: jpeg(scaled(one, 2 * side), 90),
        "half the size": lambda one: scaled(one, side // 2),
        "cut by 1/16 on each side": lambda one: one[side // 16 : -side // 16, side // 16 : -side // 16],
    }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=48)
    options = parser.parse_args()
    files = sorted(options.folder.rglob("*.png"))[: options.pictures]
    for side in (64, 256):
        pictures = []
        for file in files:
            with Image.open(file) as image:
                pictures.append(scaled(np.asarray(image.convert("RGB")), side))
        marked = [embed(one, TEXT) for one in pictures]
        noise = [float(np.mean((a.astype(float) - b) ** 2)) for a, b in zip(marked, pictures, strict=True)]
        ratio = 10 * np.log10(255**2 / np.asarray(noise))
        print(f"{side} px, {len(files)} pictures: PSNR {ratio.mean():.1f} dB, at least {ratio.min():.1f}")
        for name, fate in fates(side).items():
            wrong = np.asarray([NUM_BITS - matching_bits(fate(one), TEXT) for one in marked])
            told = (wrong <= NUM_BITS - SURE).mean()
            print(f"  {name:26} {wrong.mean():5.2f} wrong, at most {wrong.max():2}, told in {told:.1%}")
        unmarked = np.asarray([NUM_BITS - matching_bits(one, TEXT) for one in pictures])
        told = (unmarked <= NUM_BITS - SURE).mean()
        print(f"  {'never marked':26} {unmarked.mean():5.2f} wrong, at least {unmarked.min():2}, told in {told:.1%}")


if __name__ == "__main__":
    main()
