"""What was added to the knowledge base conditions the next drawing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rag_diffusion.corpus.store import Corpus
from rag_diffusion.knowledge.knowledge_base import KnowledgeBase, open_retriever
from rag_diffusion.knowledge.records import Item
from rag_diffusion.layout import ENCODER
from rag_diffusion.models.dual_encoder import create_embedded, save_weights
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.load import save_generator
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from tests.conftest import tiny_pairs
from tests.unit.knowledge.bases import write_params


@pytest.mark.slow
def test_a_data_set_of_ones_own_is_retrieved_by_the_pipeline(tmp_path: Path, tiny_generator: Generator) -> None:
    write_params(tmp_path, 64)
    (tmp_path / ENCODER).mkdir(parents=True)
    save_weights(create_embedded(tmp_path / ENCODER, image_size=32, embed_dim=32, seed=0), tmp_path / ENCODER)
    items = [
        Item(name=f"{number:03d}.png", image=pair.image, caption=pair.caption, licence="CC0-1.0")
        for number, pair in enumerate(tiny_pairs()[:40])
    ]
    KnowledgeBase.open(tmp_path).add("mine", items)
    save_generator(tiny_generator, tmp_path / "model")

    pipe = RetrievalPipeline.from_pretrained(tmp_path / "model", retriever=tmp_path)
    pipe.set_progress_bar_config(disable=True)
    found = pipe("a red circle", num_neighbors=2, num_inference_steps=2, generator=torch.Generator().manual_seed(0))
    neighbors = found.provenance[0].neighbors
    assert len(neighbors) == 2
    assert all(one.pair_id.startswith("mine/") and one.licence == "CC0-1.0" for one in neighbors)
    assert not isinstance(open_retriever(tmp_path).corpus, Corpus)
