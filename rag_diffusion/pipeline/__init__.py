"""A run of one stage: what it gets, who tracks it, and what becomes of its result."""
