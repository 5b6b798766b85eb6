"""A small ruler over the small corpus, and prompts with neighbors for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rag_diffusion.corpus.prompts import make_prompts
from rag_diffusion.corpus.store import Corpus
from rag_diffusion.metrics.ruler.fit import Scorers, fit_scorers, make_card
from rag_diffusion.metrics.ruler.store import Ruler, load_ruler, save_ruler
from rag_diffusion.metrics.ruler.trunk import Trunk
from rag_diffusion.retrieval.neighbors import PromptNeighbors
from rag_diffusion.types import Prompt


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
