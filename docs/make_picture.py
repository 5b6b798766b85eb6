"""Draw docs/picture.png: generated images alone, so that no drawing of others is committed.

python docs/make_picture.py [number of prompts]
"""

from __future__ import annotations

import io
import sys

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from rag_diffusion import layout
from rag_diffusion.corpus.prompts import read_prompts
from rag_diffusion.sampling.sheets import comparison_sheet


def main(count: int) -> None:
    """Take evenly spread prompts of the default run, not chosen by result."""
    samples = pq.read_table(f"{layout.SAMPLES}/samples.parquet").to_pylist()
    images = {(row["prompt_id"], row["variant"]): np.asarray(Image.open(io.BytesIO(row["image"]))) for row in samples}
    variants = list(dict.fromkeys(row["variant"] for row in samples))
    drawn = list(dict.fromkeys(row["prompt_id"] for row in samples))
    chosen = drawn[:: max(1, len(drawn) // count)][:count]
    texts = {prompt.prompt_id: prompt.text for prompt in read_prompts(f"{layout.PROMPTS}/test.jsonl")}
    rows = [[images.get((name, variant)) for variant in variants] for name in chosen]
    sheet = comparison_sheet("the same noise, different neighbors", variants, [texts[name] for name in chosen], rows)
    sheet.save("docs/picture.png", optimize=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
