"""Names of the files in a pack."""

from __future__ import annotations

PAIRS, VALIDATION, PROMPTS, MANIFEST = "pairs.parquet", "validation.json", "prompts.json", "pack.json"
TEXT_ENCODER = "text_encoder"
