"""Two things in one picture, each by a neighbor of its own: one in the left half, one in the right at early steps."""

from rag_diffusion import Guidance, Neighbor, RetrievalPipeline

pipe = RetrievalPipeline.from_pretrained("data/base")
left = Neighbor.from_file("photos/red.png", mask="left")  # its caption stands beside it, in photos/red.txt
right = Neighbor.from_file("photos/blue.png", mask="right", weight_by_step="early", weight=2)
guidance = Guidance(text_guidance_scale=2, neighbor_guidance_scale=4)
out = pipe("a red circle and a blue circle", [left, right], guidance=guidance, num_inference_steps=8)
out.images[0].save("two.png")
