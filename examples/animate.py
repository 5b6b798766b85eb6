"""A clip that begins with a picture: each next frame looks at frames before it."""

from rag_diffusion import Neighbor, RetrievalPipeline

pipe = RetrievalPipeline.from_pretrained("data/base")
begin = Neighbor.from_file("photos/red.png", licence="CC0-1.0")
out = pipe.rollout("a red circle bounces", begin, num_frames=4, num_inference_steps=4)
out.save("circle.webp", fps=4)
for number, origin in enumerate(out.provenance, start=1):
    if origin is not None:  # the first one was given
        print(number, [(one.pair_id, round(one.attention, 2)) for one in origin.neighbors])
