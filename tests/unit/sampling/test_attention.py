"""Shares of attention, and the provenance that carries them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rag_diffusion.errors import DataError
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_batch import Neighbor, neighbors_from
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.output import RetrievalPipelineOutput
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.provenance import Provenance, Source, read_provenance, save_picture
from rag_diffusion.sampling.seeds import seeded
from rag_diffusion.store.corpus import Corpus

PROMPTS = ["red circle, noto style", "blue ring, twemoji style", "green bar, openmoji style"]
LISTS = [["tiny/noto/red-circle", "tiny/twemoji/red-circle"], ["tiny/noto/blue-ring"], []]


def draw(generator: Generator, corpus: Corpus, mode: str, precision: str = "fp32") -> RetrievalPipelineOutput:
    pipeline = RetrievalPipeline(generator, precision=precision)
    pipeline.set_progress_bar_config(disable=True)
    neighbors = [neighbors_from(corpus, names) for names in LISTS]
    guidance = Guidance(mode=mode)
    return pipeline(PROMPTS, neighbors, guidance=guidance, num_inference_steps=4, generator=seeded([1, 2, 3]))


@pytest.mark.parametrize("mode", ["none", "text", "neighbor", "interleaved", "joint"])
def test_shares_sum_to_one_and_belong_to_the_neighbors(
    tiny_generator: Generator, tiny_corpus: Corpus, mode: str
) -> None:
    found = draw(tiny_generator, tiny_corpus, mode)
    for names, one, heat in zip(LISTS, found.provenance, found.heat_maps, strict=True):
        assert [source.pair_id for source in one.neighbors] == names
        assert sum(source.attention for source in one.neighbors) + one.null_attention == pytest.approx(1, abs=1e-4)
        assert all(source.attention > 0.01 for source in one.neighbors)
        assert [tuple(each.shape) for each in heat] == [(8, 8)] * len(names)
    assert found.provenance[2].null_attention == 1
    assert found.provenance[0].neighbors[0].licence == "CC0-1.0"


def test_recording_works_in_bfloat16(tiny_generator: Generator, tiny_corpus: Corpus) -> None:
    found = draw(tiny_generator, tiny_corpus, "alternate", "bf16").provenance[0]
    assert sum(source.attention for source in found.neighbors) + found.null_attention == pytest.approx(1, abs=1e-4)


@torch.no_grad()
def test_a_neighbor_that_counts_more_is_looked_at_more(tiny_generator: Generator, tiny_corpus: Corpus) -> None:
    pipeline = RetrievalPipeline(tiny_generator)
    one, two = neighbors_from(tiny_corpus, LISTS[0])
    shares = []
    for weight in (1.0, 5.0):
        given = [one, Neighbor(image=two.image, caption=two.caption, pair_id=two.pair_id, weight=weight)]
        found = pipeline(PROMPTS[0], given, num_inference_steps=1, generator=seeded([1]))
        shares.append(found.provenance[0].neighbors[1].attention)
    assert shares[1] > shares[0]


def test_shares_are_the_mean_of_the_softmax(tiny_generator: Generator, tiny_corpus: Corpus) -> None:
    """By hand: the attention of a single neighbor at one map, written out with exponentials."""
    attention = tiny_generator.unet.neighbor_attention["mid"]
    draws = torch.Generator().manual_seed(0)
    sample, maps = torch.randn(1, 64, 4, 4, generator=draws), torch.randn(1, 2, 64, 4, 4, generator=draws)
    heard: list[torch.Tensor] = []
    with torch.no_grad():
        kv = attention(maps[0], rows=torch.tensor([[0, 1]]), weights=torch.ones(1, 2))
        attention.listener = heard.append
        attention(sample, kv)
        attention.listener = None
        logits = torch.einsum("bhqd,bhmd->bhqm", attention._query(sample, 4), kv.keys)
        softmax = (logits.exp() / logits.exp().sum(-1, keepdim=True)).mean(1)
    expected = torch.stack([softmax[..., :16].sum(-1), softmax[..., 16:32].sum(-1), softmax[..., 32]], dim=-1)
    torch.testing.assert_close(heard[0].flatten(1, 2), expected)
    torch.testing.assert_close(heard[0].sum(-1), torch.ones(1, 4, 4))


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
    save_picture(tmp_path / "one.png", np.zeros((4, 4, 3), dtype=np.uint8), given)
    assert read_provenance(tmp_path / "one.png") == given
    assert Provenance.from_dict(json.loads((tmp_path / "one.json").read_text())) == given
    Image.new("RGB", (2, 2)).save(tmp_path / "bare.png")
    with pytest.raises(DataError, match="expected an image with its provenance inside"):
        read_provenance(tmp_path / "bare.png")
    for name in ("one.json", "missing.png"):
        with pytest.raises(DataError, match=f"{name}: expected an image with its provenance inside, got"):
            read_provenance(tmp_path / name)
    with pytest.raises(DataError, match="expected version 6, got 1"):
        Provenance.from_dict({"version": 1})
