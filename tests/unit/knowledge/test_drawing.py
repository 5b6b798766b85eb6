"""What was added to the knowledge base conditions the next drawing."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from rag_diffusion.knowledge.knowledge_base import KnowledgeBase
from rag_diffusion.layout import ENCODER
from rag_diffusion.models.dual_encoder import create_embedded, save_weights
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.load import save_generator
from rag_diffusion.readers.records import Item
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.provenance import Provenance
from rag_diffusion.store.filters import Filter
from tests.tiny import tiny_pairs
from tests.unit.knowledge.bases import make_base, write_params
from tests.unit.serving.served import make_encoder, served


def tiny_items() -> list[Item]:
    return [
        Item(name=f"{number:03d}.png", image=pair.image, caption=pair.caption)
        for number, pair in enumerate(tiny_pairs()[:40])
    ]


@pytest.mark.slow
def test_a_data_set_of_ones_own_is_retrieved_by_the_pipeline(tmp_path: Path, tiny_generator: Generator) -> None:
    write_params(tmp_path, 64)
    (tmp_path / ENCODER).mkdir(parents=True)
    save_weights(create_embedded(tmp_path / ENCODER, image_size=32, embed_dim=32, seed=0), tmp_path / ENCODER)
    base = KnowledgeBase.open(tmp_path)
    base.add("first", tiny_items()[:1])
    save_generator(tiny_generator, tmp_path / "model")

    pipe = RetrievalPipeline.from_pretrained(tmp_path / "model", retriever=KnowledgeBase.open(tmp_path))
    with pytest.raises(ValueError, match=r"expected one, got '\.'; give KnowledgeBase\.open\('\.'\)"):
        RetrievalPipeline.from_pretrained(tmp_path / "model", ".")  # type: ignore[arg-type]
    pipe.set_progress_bar_config(disable=True)
    base.remove("first")
    base.add("mine", tiny_items(), licence="CC0-1.0")  # after the pipeline was opened
    found = pipe("a red circle", num_neighbors=2, num_inference_steps=2, generator=torch.Generator().manual_seed(0))
    neighbors = found.provenance[0].neighbors
    assert len(neighbors) == 2
    assert all(one.pair_id.startswith("mine/") and one.licence == "CC0-1.0" for one in neighbors)
    (searched,) = found.provenance[0].data_sets
    assert (searched.name, searched.hash, searched.num_pairs) == ("mine", base.info("mine").hash, 40)
    assert datetime.now(UTC) - datetime.fromisoformat(searched.added) < timedelta(hours=1)
    assert Provenance.from_dict(json.loads(found.provenance[0].as_json())) == found.provenance[0]

    base.add("other", tiny_items()[:3], licence="MIT")
    for more in ({"source": "other"}, {"where": Filter(licences=("MIT",))}):
        named = pipe("a red circle", num_neighbors=2, num_inference_steps=1, **more).provenance[0].neighbors
        assert {one.pair_id.split("/")[0] for one in named} == {"other"}


def without_numbers(one: Provenance) -> Provenance:
    plain = tuple(replace(pair, attention=0.0, score=0.0) for pair in one.neighbors)
    return replace(one, null_attention=0.0, neighbors=plain)


@pytest.mark.slow
def test_what_another_machine_serves_is_retrieved_and_its_silence_told(
    tmp_path: Path, tiny_generator: Generator
) -> None:
    for name in ("there", "here"):
        (tmp_path / name).mkdir()
    encoder = make_encoder(tmp_path / "there")
    there = make_base(tmp_path / "there", encoder, corpus={"image_size": 64})
    there.add("photos", tiny_items(), licence="CC0-1.0")
    here = make_base(tmp_path / "here", encoder, corpus={"image_size": 64})
    pipe = RetrievalPipeline(tiny_generator, here)
    pipe.set_progress_bar_config(disable=True)

    def draw(prompts: list[str]) -> list[Provenance]:
        generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
        found = pipe(prompts, num_neighbors=2, num_inference_steps=2, generator=generators, output_type="np")
        return found.provenance

    with served(there) as client:
        here.writer.add_remote("far", client.url, allow_hosts=["127.0.0.1"])
        circle, square = draw(["a red circle", "a blue square"])
        alone = draw(["a red circle"])[0]
    for one in (circle, square):
        assert len(one.neighbors) == 2
        assert "trouble" not in one.settings
        assert all(pair.pair_id.startswith("far/") and pair.licence == "CC0-1.0" for pair in one.neighbors)
    assert without_numbers(alone) == without_numbers(circle)
    shares = [[(pair.attention, pair.score) for pair in one.neighbors] for one in (alone, circle)]
    assert np.allclose(shares[0], shares[1], atol=1e-4), "sums of another batch round otherwise"
    assert circle.corpus_hash
    assert circle.corpus_hash != square.corpus_hash
    assert [(one.name, one.hash) for one in circle.data_sets] == [("far", circle.corpus_hash)]
    silent = draw(["a red circle"])[0]
    assert silent.neighbors == ()
    assert silent.settings["trouble"][0].startswith("remote far: ")
    assert Provenance.from_dict(json.loads(silent.as_json())) == silent
