"""`rag-diffusion ...`: the commands, and what they print."""
