"""What a caller may give to the pipeline, how it is read, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rag_diffusion.errors import ConfigError, DataError, ModelError
from rag_diffusion.models.generator import Generator
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.seeds import image_seeds, initial_noise, noise_device, seeded
from tests.unit.sampling.prompts import PROMPTS, draw


def test_noise_depends_on_the_generator_alone() -> None:
    shape = (3, 4, 4)
    assert torch.equal(initial_noise(seeded([5, 6]), shape, None)[1], initial_noise(seeded([6]), shape, None)[0])
    shared = torch.Generator().manual_seed(6)
    assert torch.equal(initial_noise([shared], shape, None), initial_noise(seeded([6]), shape, None))


def test_given_latents_are_the_noise(pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]) -> None:
    noise = initial_noise(seeded([4]), pipeline.generator.sample_shape, None)
    one = draw(pipeline, PROMPTS[0], neighbors[0], latents=noise, generator=seeded([9]))
    assert np.array_equal(one, draw(pipeline, PROMPTS[0], neighbors[0], generator=seeded([4])))
    with pytest.raises(ValueError, match=r"latents: expected shape \(1, 192, 8, 8\), got \(1, 2\)"):
        draw(pipeline, PROMPTS[0], neighbors[0], latents=torch.zeros(1, 2))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P"])
def test_neighbors_of_any_kind_and_size_become_rgb_on_white(mode: str) -> None:
    image = Image.new("RGBA", (30, 10), (0, 0, 0, 0))
    pixels = Neighbor(image=image.convert(mode) if mode != "RGBA" else image, caption="x").pixels(64)
    assert pixels.shape == (64, 64, 3)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    middle = pixels[32, 32].tolist()
    assert middle == ([255] * 3 if "A" in mode else [0] * 3)


def test_a_hand_given_neighbor_has_a_name_of_its_content() -> None:
    red, blue = (Neighbor(image=Image.new("RGB", (8, 8), color), caption="c") for color in ("red", "blue"))
    assert red.name.startswith("given/")
    assert red.name != blue.name
    assert red.name == Neighbor(image=np.asarray(red.image), caption="c").name


def test_names_of_content_see_palette_and_shape() -> None:
    red, blue = (
        Image.new("RGB", (8, 8), color).convert("P", palette=Image.Palette.ADAPTIVE) for color in ("red", "blue")
    )
    assert Neighbor(image=red, caption="c").name != Neighbor(image=blue, caption="c").name
    flat, tall = (Neighbor(image=np.zeros(shape, np.uint8), caption="c") for shape in ((4, 8, 3), (8, 4, 3)))
    assert flat.name != tall.name
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(1, 64).repeat(64, 0)
    assert len(np.unique(Neighbor(image=Image.fromarray(ramp), caption="c").pixels(64))) > 40


def test_one_neighbor_or_an_empty_list_will_do(pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]) -> None:
    alone = draw(pipeline, PROMPTS[0], neighbors[1][0], generator=seeded([1]))
    assert np.array_equal(alone, draw(pipeline, PROMPTS[0], neighbors[1], generator=seeded([1])))
    none = draw(pipeline, PROMPTS[0], [], generator=seeded([1]))
    assert np.array_equal(none, draw(pipeline, PROMPTS[0], num_neighbors=0, generator=seeded([1])))


def test_every_image_has_a_seed_whatever_generators_were_given() -> None:
    def fresh(seed: int = 5) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    assert image_seeds([fresh(4), fresh(9)], 2) == [4, 9]
    one = fresh()
    first, second, third = image_seeds(one, 3)
    assert first == 5, "the first image is that of the seed itself"
    assert len({first, second, third}) == 3
    assert image_seeds(fresh(), 3) == [first, second, third]
    assert not set(image_seeds(one, 3)) & {first, second, third}, "the next images are other ones"
    used = fresh()
    torch.rand(3, generator=used)
    assert image_seeds(used, 1) != [5]
    assert len(set(image_seeds(None, 4))) == 4
    assert (noise_device(None), noise_device(one), noise_device([one])) == ("cpu", "cpu", "cpu")
    assert all(Guidance(mode="interleaved").plan(4, [first, second, fresh(-1).initial_seed()]))


def test_the_seed_that_is_told_draws_the_image_again(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]
) -> None:
    used = torch.Generator().manual_seed(5)
    torch.rand(3, generator=used)
    for given in (used, torch.Generator().manual_seed(5), None):
        found = pipeline(PROMPTS[:2], neighbors[:2], num_inference_steps=2, generator=given)
        for row, origin in enumerate(found.provenance):
            again = pipeline(PROMPTS[row], neighbors[row], num_inference_steps=2, generator=seeded([origin.seed]))
            assert np.abs(np.asarray(again.images[0]).astype(int) - np.asarray(found.images[row])).max() <= 1


def test_what_does_not_fit_is_told(pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]) -> None:
    with pytest.raises(ValueError, match="or one such list for each of 2 prompts, got 3 entries"):
        pipeline(PROMPTS[:2], neighbors)
    with pytest.raises(ValueError, match=r'got float; for example pipe\("an apple", "photo.png"\)'):
        pipeline(PROMPTS[0], [[0.5]])
    with pytest.raises(DataError, match="tiny/noto/red-circle: expected an image file, got No such file"):
        pipeline(PROMPTS[0], [["tiny/noto/red-circle"]])
    with pytest.raises(ValueError, match="expected one, or one for each of 3 images, got 2"):
        pipeline(PROMPTS, neighbors, generator=seeded([1, 2]))
    with pytest.raises(ValueError, match="expected a text or a list of texts"):
        pipeline([], neighbors)
    with pytest.raises(ValueError, match="output_type: expected one of pil, np, pt, latent, got 'jpg'"):
        pipeline(PROMPTS[0], neighbors[0], output_type="jpg")
    with pytest.raises(ValueError, match="num_neighbors: expected a whole number of at least 0, got -1"):
        pipeline(PROMPTS[0], num_neighbors=-1)
    with pytest.raises(ValueError, match="num_inference_steps: expected a whole number of at least 1, got 0"):
        pipeline(PROMPTS[0], neighbors[0], num_inference_steps=0)
    with pytest.raises(ValueError, match="expected one picture and caption for pair id 'x', got two"):
        pair = [Neighbor(image=Image.new("RGB", (8, 8), color), caption="c", pair_id="x") for color in ("red", "blue")]
        pipeline(PROMPTS[0], pair)
    with pytest.raises(ConfigError, match="precision: expected one of auto, fp32, bf16, fp16, got 'bf-16'"):
        RetrievalPipeline(pipeline.generator, precision="bf-16")
    with pytest.raises(ValueError, match="expected a finite score or None, got nan"):
        Neighbor(image=Image.new("RGB", (2, 2)), caption="", score=float("nan"))
    with pytest.raises(ValueError, match="expected a finite weight of at least 0, got -1"):
        Neighbor(image=Image.new("RGB", (2, 2)), caption="", weight=-1)
    with pytest.raises(ValueError, match=r"expected a PIL image or a uint8 array .* got float64 \(4, 4, 3\)"):
        Neighbor(image=np.zeros((4, 4, 3)), caption="")


def test_a_scheduler_that_fits_no_closed_form_is_refused(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]
) -> None:
    from diffusers import LMSDiscreteScheduler

    pipeline.scheduler = LMSDiscreteScheduler.from_config(pipeline.scheduler.config)
    with pytest.raises(ConfigError, match="got 'LMSDiscreteScheduler'"):
        pipeline(PROMPTS[0], neighbors[0])


def test_out_of_memory_says_what_to_lower(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        torch.empty(2**60)

    monkeypatch.setattr(Generator, "predict", full)
    with pytest.raises(ModelError, match="out of memory while drawing 1 images .* lower num_images_per_prompt"):
        pipeline(PROMPTS[0], neighbors[0])


def test_a_long_prompt_is_cut_with_a_warning_that_says_where(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]
) -> None:
    long = "red circle " * 7 + "with a very blue moon"
    with pytest.warns(UserWarning, match="reads 15 tokens; cut after .* not seen: 'circle with a very blue moon'"):
        pipeline(long, neighbors[0], num_inference_steps=1)


def test_a_style_neighbor_is_refused_by_a_generator_that_does_not_know_roles(pipeline: RetrievalPipeline) -> None:
    shown = Neighbor(image=np.zeros((8, 8, 3), np.uint8), caption="a circle", role="style")
    with pytest.raises(ValueError, match="expected content neighbors alone, got one of style"):
        pipeline(PROMPTS[0], [shown], num_inference_steps=1)
    with pytest.raises(ValueError, match="expected the role content or style, got 'colour'"):
        Neighbor(image=np.zeros((8, 8, 3), np.uint8), caption="a circle", role="colour")  # type: ignore[arg-type]
