"""Pictures that are withheld or marked, by the published checker's own classes and by any callable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor

from rag_diffusion.arrays import Pixels
from rag_diffusion.errors import BlockedError, ModelError
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.retrieval.blocklist import Blocklist
from rag_diffusion.sampling.output import as_arrays
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.safety import PublishedChecker
from rag_diffusion.sampling.seeds import seeded
from rag_diffusion.sampling.watermark import NUM_BITS, matching_bits
from tests.unit.sampling.prompts import PROMPTS, quiet

STEPS = {"num_inference_steps": 2}


def second(pixels: Pixels) -> list[bool]:
    assert pixels.dtype == np.uint8
    return [number == 1 for number in range(len(pixels))]


@pytest.fixture(scope="module")
def checker_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published checker with a small vision tower; its first concept is near to every picture."""
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 32, "patch_size": 16, "projection_dim": 16}  # fmt: skip
    torch.manual_seed(0)
    model = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=16))
    model.concept_embeds.data = torch.randn(17, 16)
    model.special_care_embeds.data = torch.randn(3, 16)
    model.concept_embeds_weights.data.fill_(2.0)
    model.special_care_embeds_weights.data.fill_(2.0)
    folder = tmp_path_factory.mktemp("checker")
    model.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    return folder


def test_a_withheld_picture_is_black_and_says_so(tiny_generator: Generator) -> None:
    free, checked = (quiet(RetrievalPipeline(tiny_generator, safety_checker=checker)) for checker in (None, second))
    for kind in ("pil", "np", "pt"):
        one, two = (
            pipe(PROMPTS[:2], num_neighbors=0, generator=seeded([1, 2]), output_type=kind, **STEPS)
            for pipe in (free, checked)
        )
        assert type(two.images) is type(one.images)
        np.testing.assert_array_equal(np.asarray(two.images[0]), np.asarray(one.images[0]))
        assert np.asarray(one.images[1]).any()
        assert not np.asarray(two.images[1]).any()
    assert two.provenance[1].settings["withheld"] == "second"
    assert "the safety checker second takes it for one that must not" in two.provenance[1].settings["trouble"][0]
    assert "withheld" not in two.provenance[0].settings
    with pytest.raises(ValueError, match="expected pictures where there is a safety checker"):
        checked(PROMPTS[0], num_neighbors=0, output_type="latent", **STEPS)


def test_the_published_checker_is_asked_as_it_is(checker_folder: Path) -> None:
    checker = PublishedChecker(checker_folder)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    assert checker(pixels) == [False] * 3
    checker._model.concept_embeds_weights.data.fill_(-2.0)
    assert checker(pixels) == [True] * 3
    with pytest.raises(ModelError, match=r"expected '.*nowhere' as a folder or a hub name that can be reached"):
        PublishedChecker(checker_folder / "nowhere")


def test_a_watermark_is_in_every_picture_and_in_those_drawn_again(tiny_generator: Generator) -> None:
    pipe = quiet(RetrievalPipeline(tiny_generator, watermark="mine"))
    drawn = pipe(PROMPTS[:2], num_neighbors=0, generator=seeded([1, 2]), **STEPS)
    assert [matching_bits(pixels, "mine") for pixels in as_arrays(drawn.images)] == [NUM_BITS] * 2
    again = quiet(RetrievalPipeline(tiny_generator)).redraw(drawn.provenance[1])
    assert np.abs(as_arrays(again.images)[0].astype(int) - as_arrays(drawn.images)[1]).max() <= 1
    assert again.provenance[0].settings["watermark"] == "mine"


def test_blocked_prompts_and_captions_are_refused(tiny_generator: Generator, neighbors: list[list[Neighbor]]) -> None:
    pipe = quiet(RetrievalPipeline(tiny_generator, blocklist=Blocklist(words=("pistol",), concepts=("weapons",))))
    with pytest.raises(BlockedError, match="has the blocked word 'pistol'"):
        pipe("Two Pistols", num_neighbors=0)
    with pytest.raises(BlockedError, match=r"is like the blocked concept 'weapons' \(cosine 0\.\d\d\)"):
        pipe("a rifle", num_neighbors=0)
    picture = neighbors[0][0].image
    with pytest.raises(BlockedError, match="'my pistol' has the blocked word"):
        pipe("a toy", [(picture, "my pistol")])
    assert len(pipe("a toy", [(picture, "my apple")], **STEPS).images) == 1
    states, _ = pipe.encode_prompt("Two Pistols")
    with pytest.raises(ValueError, match="prompt_embeds: expected a prompt, as this pipeline has a blocklist"):
        pipe(None, num_neighbors=0, prompt_embeds=states)
