"""Where every artifact lives, relative to the project's root."""

from __future__ import annotations

CORPUS = "data/corpus"
ENCODER = "data/encoder"
VECTORS = "data/vectors"
INDEX = "data/index"
NEIGHBORS = "data/neighbors"
BASELINES = "data/baselines"
PRETRAINED = "data/pretrained"
MODEL = "data/model"
SAMPLES = "data/samples"
BASE = "data/base"
RULER = "data/ruler"
PROMPTS = "data/prompts"
REPORTS = "reports"
RUNS = "data/runs"
SCRATCH = "data/.scratch"
