"""The page of `rag-diffusion ui`: drawing, neighbors and the knowledge base in a browser."""
