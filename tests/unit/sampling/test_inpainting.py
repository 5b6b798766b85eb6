"""In-painting with neighbors: what stays, what is drawn, how it is told and drawn again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.sampling.denoise import SCHEDULERS, make_scheduler
from rag_diffusion.sampling.inpainting import as_masks
from rag_diffusion.sampling.output import as_arrays
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.seeds import seeded
from tests.unit.sampling.prompts import PROMPTS

BOX = (slice(16, 48), slice(8, 40))


@pytest.fixture
def mask() -> np.ndarray:
    """White in a box."""
    cells = np.zeros((64, 64), dtype=np.uint8)
    cells[BOX] = 255
    return cells


def paint(pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]], **more: Any) -> Any:
    given = {"num_inference_steps": 4, "generator": seeded([1])} | more
    return pipeline(PROMPTS[0], neighbors[0], image=neighbors[1][0].pixels(64), **given)


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler"])
def test_what_the_mask_leaves_out_stays(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]], mask: np.ndarray, name: str
) -> None:
    assert name in SCHEDULERS
    pipeline.scheduler = make_scheduler(name, pipeline.generator.schedule)
    shown = neighbors[1][0].pixels(64)
    drawn = as_arrays(paint(pipeline, neighbors, mask_image=mask).images)[0]
    change = np.abs(drawn.astype(int) - shown)
    assert change[mask == 0].max() <= 1
    assert change[mask == 255].mean() > 5


def test_neighbors_say_what_is_painted(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]], mask: np.ndarray
) -> None:
    with_them = as_arrays(paint(pipeline, neighbors, mask_image=mask).images)[0]
    without = as_arrays(paint(pipeline, [[], neighbors[1]], mask_image=mask).images)[0]
    assert not np.array_equal(with_them[BOX], without[BOX])
    assert np.abs(with_them.astype(int) - without)[mask == 0].max() <= 1


def test_a_mask_of_everything_draws_what_no_mask_draws(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]
) -> None:
    whole = paint(pipeline, neighbors, mask_image=Image.new("L", (8, 8), 255), strength=0.75)
    plain = paint(pipeline, neighbors, strength=0.75)
    assert np.array_equal(as_arrays(whole.images), as_arrays(plain.images))


def test_its_provenance_draws_it_again(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]], mask: np.ndarray
) -> None:
    pipeline.generator.fingerprint = "x"
    found = paint(pipeline, neighbors, mask_image=mask, strength=0.75, negative_prompt="a ring", keep_pictures=True)
    again = pipeline.redraw(found.provenance[0])
    assert np.array_equal(as_arrays(found.images), as_arrays(again.images))
    assert {"mask", "begin", "negative_prompt"} <= found.provenance[0].settings.keys()


def test_masks_in_every_form(mask: np.ndarray) -> None:
    forms = [mask, mask > 0, mask / 255, Image.fromarray(mask), Image.fromarray(mask).resize((128, 128), 0)]
    for form in forms:
        assert np.array_equal(as_masks(form, 1, (64, 64))[0], mask)
    assert as_masks([mask, mask], 2, (32, 64)).shape == (2, 32, 64)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (np.zeros((4, 4)), "expected a mask with white"),
        (np.full((4, 4), 7.0), "floats from 0 to 1"),
        (np.zeros((4, 4, 3), dtype=np.uint8), "a PIL image or an array"),
        ("mask.png", "a PIL image or an array"),
        ([np.ones((4, 4))] * 3, "expected one mask, or one for each of 1 prompts, got 3"),
    ],
)
def test_what_is_no_mask_is_refused(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]], wrong: Any, said: str
) -> None:
    with pytest.raises(ValueError, match=f"mask_image: .*{said}"):
        paint(pipeline, neighbors, mask_image=wrong)


def test_a_mask_wants_a_picture(pipeline: RetrievalPipeline, mask: np.ndarray) -> None:
    with pytest.raises(ValueError, match="mask_image: expected image= beside it"):
        pipeline(PROMPTS[0], num_neighbors=0, mask_image=mask)
