"""Draw with a picture of your own as the neighbor. Needs weights: data/base of a clone or a project."""

import torch

from rag_diffusion import Neighbor, RetrievalPipeline

pipe = RetrievalPipeline.from_pretrained("data/base")
mine = Neighbor.from_file("photos/red.png", caption="a red circle", licence="CC0-1.0")
out = pipe("a red circle on a table", [mine], num_inference_steps=8, generator=torch.Generator().manual_seed(7))
out.save("drawn")  # drawn/0000.png, its provenance inside and beside it
print(f"{out.provenance[0].neighbors[0].attention:.0%} of attention went to {mine.caption!r}")
