"""An icon set lacks a drawing: draw it from others' drawings of the thing, in the set's manner, as SVG."""

from pathlib import Path

import numpy as np

from rag_diffusion import Neighbor, RetrievalPipeline
from rag_diffusion.sampling.trace import as_svg

pipe = RetrievalPipeline.from_pretrained("data/base")
others = [Neighbor.from_file("photos/red.png", caption="a red circle", licence="CC0-1.0")]  # two or three are best
colours = ["#dd2e44", "#a0041e", "#ffffff"]  # of the set; names of its pictures do as well
begun = {"image": others[0].image, "strength": 0.8}  # with the first of them, noised: the thing is kept far more often
out = pipe("a red circle in the style of Twemoji", others, num_inference_steps=8, colours=colours, **begun)
Path("icon.svg").write_text(as_svg(np.asarray(out.images[0]), out.provenance[0]), encoding="utf-8")
print("to be credited:", [(one.caption, one.licence) for one in out.provenance[0].neighbors])
