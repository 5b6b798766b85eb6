"""Shares of attention, and the provenance that carries them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rag_diffusion.corpus.store import Corpus
from rag_diffusion.errors import DataError
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_batch import NeighborBatch
from rag_diffusion.sampling.attention import Attention, AttentionRecorder
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.provenance import Provenance, Source, read_png, save_png

PROMPTS = ["red circle, noto style", "blue ring, twemoji style", "green bar, openmoji style"]
LISTS = [["tiny/noto/red-circle", "tiny/twemoji/red-circle"], ["tiny/noto/blue-ring"], []]


def record(generator: Generator, corpus: Corpus, mode: str) -> tuple[np.ndarray, Attention]:
    recorder = AttentionRecorder(batch=3, count=2)
    pipeline = RetrievalPipeline(generator, num_inference_steps=4)
    neighbors = NeighborBatch.gather(corpus, LISTS)
    with recorder.listening(generator.unet):
        drawn = pipeline(PROMPTS, neighbors, [1, 2, 3], Guidance(mode=mode), recorder=recorder)
    return drawn, recorder.result()


@pytest.mark.parametrize("mode", ["none", "text", "neighbor", "interleaved", "joint"])
def test_shares_sum_to_one_and_name_only_neighbors_that_are_there(
    tiny_generator: Generator, tiny_corpus: Corpus, mode: str
) -> None:
    _, found = record(tiny_generator, tiny_corpus, mode)
    torch.testing.assert_close(found.shares.sum(dim=1), torch.ones(3))
    assert bool((found.shares[0] > 0.01).all())
    assert found.shares[1, 1] == 0
    assert found.shares[2].tolist() == [0, 0, 1]
    assert found.heat.shape[:2] == (3, 2)
    assert float(found.heat[2].sum()) == 0


def test_recording_works_in_bfloat16(tiny_generator: Generator, tiny_corpus: Corpus) -> None:
    recorder = AttentionRecorder(batch=3, count=2)
    pipeline = RetrievalPipeline(tiny_generator, num_inference_steps=2, precision="bf16")
    with recorder.listening(tiny_generator.unet):
        pipeline(PROMPTS, NeighborBatch.gather(tiny_corpus, LISTS), [1, 2, 3], recorder=recorder)
    torch.testing.assert_close(recorder.result().shares.sum(dim=1), torch.ones(3))


def test_recording_changes_no_pixel(tiny_generator: Generator, tiny_corpus: Corpus) -> None:
    drawn, _ = record(tiny_generator, tiny_corpus, "alternate")
    pipeline = RetrievalPipeline(tiny_generator, num_inference_steps=4)
    assert np.array_equal(drawn, pipeline(PROMPTS, NeighborBatch.gather(tiny_corpus, LISTS), [1, 2, 3]))


@torch.no_grad()
def test_a_neighbor_that_counts_more_is_looked_at_more(tiny_generator: Generator, tiny_corpus: Corpus) -> None:
    unet, neighbors = tiny_generator.unet, NeighborBatch.gather(tiny_corpus, LISTS[:1])
    captions = tiny_generator.text_encoder(list(neighbors.captions))
    maps = unet.encode_neighbors(tiny_generator.codec.encode(neighbors.images), captions.states, captions.mask)
    text = tiny_generator.text_encoder(PROMPTS[:1])
    shares = []
    for weight in (1.0, 5.0):
        kv = unet.project_neighbors(maps, neighbors.rows, torch.tensor([[1.0, weight]]))
        recorder = AttentionRecorder(batch=1, count=2, rows=torch.tensor([0]))
        with recorder.listening(unet):
            tiny_generator.predict(torch.zeros(1, *_shape(tiny_generator)), torch.tensor(500), text, kv)
        shares.append(float(recorder.result().shares[0, 1]))
    assert shares[1] > shares[0]


def _shape(generator: Generator) -> tuple[int, int, int]:
    config = generator.unet.config
    return config.in_channels, config.sample_size, config.sample_size


def test_provenance_travels_inside_the_png_and_beside_it(tmp_path: Path) -> None:
    source = Source(
        pair_id="a/b",
        caption="a caption, naïve",
        source="a",
        licence="CC0-1.0",
        attribution="me",
        score=None,
        attention=0.75,
    )
    given = Provenance(
        prompt="draw", seed=3, corpus_hash="c", model_hash="m", neighbors=(source,), null_attention=0.25, variant="x"
    )
    save_png(tmp_path / "one.png", np.zeros((4, 4, 3), dtype=np.uint8), given)
    assert read_png(tmp_path / "one.png") == given
    assert Provenance.from_dict(json.loads((tmp_path / "one.json").read_text())) == given
    Image.new("RGB", (2, 2)).save(tmp_path / "bare.png")
    with pytest.raises(DataError, match="expected an image with its provenance inside"):
        read_png(tmp_path / "bare.png")
    with pytest.raises(DataError, match="expected version 2, got 1"):
        Provenance.from_dict({"version": 1})
