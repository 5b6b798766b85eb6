"""Put a folder of captioned pictures into the knowledge base of this project, and search it."""

from rag_diffusion import Filter, KnowledgeBase, Query
from rag_diffusion.readers.forms import open_reader

base = KnowledgeBase.open(".")
manifest = base.add("circles", open_reader("auto", "photos"), licence="CC0-1.0", attribution="me")
print(f"{manifest.num_pairs} pairs, version {manifest.hash[:8]}")
results = base.search(Query(["a red circle"], top_k=2, where=Filter(licences=("CC0-1.0",))))
for pair_id, score in zip(results.hits[0].pair_ids, results.hits[0].scores, strict=True):
    print(f"{score:.2f}  {pair_id}  {base.corpus.pair(pair_id).caption}")
