"""A picture says what made it, and can be drawn again from its own file."""

from rag_diffusion import RetrievalPipeline
from rag_diffusion.sampling.provenance import read_provenance

pipe = RetrievalPipeline.from_pretrained("data/base")
pipe("a red circle", "photos/red.png", num_inference_steps=4, keep_pictures=True).save("first")
made_by = read_provenance("first/0000.png")
print(made_by.prompt, made_by.seed, made_by.settings["num_inference_steps"])
again = pipe.redraw("first/0000.png")
print("the same:", again.images[0].tobytes() == pipe.redraw("first/0000.png").images[0].tobytes())
