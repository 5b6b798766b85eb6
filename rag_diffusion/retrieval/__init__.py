"""Neighbors for texts: BM25 and a dual encoder, fused."""
