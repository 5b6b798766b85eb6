"""Retrieval-augmented text-to-image diffusion: model, retriever and sampler."""

__version__ = "0.1.0"
