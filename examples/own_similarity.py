"""A similarity of one's own: what a knowledge base finds, ranked again by how colourful the pictures are."""

from dataclasses import replace

import numpy as np

from rag_diffusion import KnowledgeBase, Query, RetrievalPipeline
from rag_diffusion.readers.images import decode
from rag_diffusion.types import Hits


class Colourful(KnowledgeBase):
    """Finds more than it is asked for, and keeps those whose colours differ most."""

    def search(self, query: Query):
        """As a knowledge base does; whatever has `corpus` and `search` can be a retriever."""
        found = super().search(replace(query, top_k=10 * query.top_k))
        return replace(found, hits=[self._again(hits, query.top_k) for hits in found.hits])

    def _again(self, hits: Hits, top_k: int) -> Hits:
        spread = [float(np.asarray(decode(self.corpus.pair(one).image, one)).std()) / 128 for one in hits.pair_ids]
        scores = [score + more for score, more in zip(hits.scores, spread, strict=True)]
        best = sorted(range(len(scores)), key=lambda place: -scores[place])[:top_k]
        ids = tuple(hits.pair_ids[place] for place in best)
        return Hits(pair_ids=ids, scores=tuple(scores[place] for place in best), parts={})


pipe = RetrievalPipeline.from_pretrained("data/base", retriever=Colourful.open("."))
out = pipe("a red circle", num_neighbors=1, num_inference_steps=4)
print([neighbor.pair_id for neighbor in out.provenance[0].neighbors])
