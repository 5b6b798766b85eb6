"""Pairs on disk, for the pipeline and for the knowledge base alike: shards, table, vectors, manifest."""
