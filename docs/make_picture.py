"""Draw docs/picture.png: generated images alone, so that no drawing of others is committed.

python docs/make_picture.py [number of prompts]
"""

from __future__ import annotations

import io
import sys
import textwrap

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from rag_diffusion import layout
from rag_diffusion.corpus.prompts import read_prompts

ROWS = {"none": "no neighbors", "random": "random neighbors", "retrieved": "retrieved neighbors"}
SIDE, GAP, LABEL, HEAD = 256, 10, 118, 62  # pixels


def main(count: int) -> None:
    """Take evenly spread prompts of the default run, not chosen by result: a column each."""
    samples = pq.read_table(f"{layout.SAMPLES}/samples.parquet").to_pylist()
    images = {(row["prompt_id"], row["variant"]): row["image"] for row in samples}
    drawn = list(dict.fromkeys(row["prompt_id"] for row in samples if row["variant"] == "retrieved"))
    chosen = [drawn[place] for place in np.linspace(0, len(drawn) - 1, count).round().astype(int)]
    texts = {prompt.prompt_id: prompt.text for prompt in read_prompts(f"{layout.PROMPTS}/test.jsonl")}
    sheet = Image.new("RGB", (LABEL + count * (SIDE + GAP), HEAD + len(ROWS) * (SIDE + GAP)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(17)
    for column, name in enumerate(chosen):
        left = LABEL + column * (SIDE + GAP)
        pen.multiline_text((left, 6), textwrap.fill(texts[name], 30), fill=(32, 32, 32), font=font)
        for row, variant in enumerate(ROWS):
            picture = Image.open(io.BytesIO(images[name, variant])).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            sheet.paste(picture, (left, HEAD + row * (SIDE + GAP)))
    for row, words in enumerate(ROWS.values()):
        place = (8, HEAD + row * (SIDE + GAP) + SIDE // 2 - 20)
        pen.multiline_text(place, textwrap.fill(words, 10), fill=(32, 32, 32), font=font)
    sheet.save("docs/picture.png", optimize=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 6)
