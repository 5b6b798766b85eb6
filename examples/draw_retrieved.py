"""Draw with pictures that a knowledge base finds: with them and without, from the same noise."""

import torch

from rag_diffusion import KnowledgeBase, RetrievalPipeline

pipe = RetrievalPipeline.from_pretrained("data/base", retriever=KnowledgeBase.open("."))
for count in (0, 2):
    noise = torch.Generator().manual_seed(7)
    out = pipe("a red circle", num_neighbors=count, num_inference_steps=8, generator=noise)
    out.save(f"with-{count}")
    print(count, [neighbor.pair_id for neighbor in out.provenance[0].neighbors])
