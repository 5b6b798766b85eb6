"""An icon set lacks a drawing: draw it from others' drawings of the thing, in the set's manner, as SVG."""

from pathlib import Path

import numpy as np

from rag_diffusion import Neighbor, RetrievalPipeline
from rag_diffusion.sampling.trace import as_svg

pipe = RetrievalPipeline.from_pretrained("data/base")
others = [Neighbor.from_file("photos/red.png", caption="a red circle", licence="CC0-1.0")]  # two or three are best
colours = ["#dd2e44", "#a0041e", "#ffffff"]  # of the set; names of its pictures do as well
out = pipe("a red circle in the style of Twemoji", others, num_inference_steps=8, colours=colours, begin_strength=0.8)
Path("icon.svg").write_text(as_svg(np.asarray(out.images[0]), out.provenance[0]), encoding="utf-8")
print("to be credited:", [(one.caption, one.licence) for one in out.provenance[0].neighbors])
