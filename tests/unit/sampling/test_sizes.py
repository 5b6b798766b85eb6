"""Drawings that are no squares, and neighbors of any aspect."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rag_diffusion.models.neighbor_batch import Neighbor, framed_pixels
from rag_diffusion.models.neighbor_control import mask_pixels
from rag_diffusion.sampling.output import as_arrays
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.seeds import seeded
from tests.unit.sampling.prompts import PROMPTS


def wide(pipeline: RetrievalPipeline, neighbors: list[Neighbor], **more: Any) -> Any:
    given = {"height": 48, "width": 96, "num_inference_steps": 3, "generator": seeded([1])} | more
    return pipeline(PROMPTS[0], neighbors, **given)


def test_a_wide_drawing_has_its_size_and_its_neighbors(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]
) -> None:
    found = wide(pipeline, neighbors[0])
    assert as_arrays(found.images).shape == (1, 48, 96, 3)
    assert found.heat_maps[0][0].shape == (6, 12)
    assert found.provenance[0].settings["size"] == [48, 96]
    assert not np.array_equal(as_arrays(found.images), as_arrays(wide(pipeline, [], num_neighbors=0).images))


def test_it_is_drawn_again(pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]) -> None:
    pipeline.generator.fingerprint = "x"
    masked = Neighbor(image=neighbors[0][0].image, caption="a circle", mask="left", pair_id="left")
    found = wide(pipeline, [masked, neighbors[0][1]], keep_pictures=True)
    assert np.array_equal(as_arrays(pipeline.redraw(found.provenance[0]).images), as_arrays(found.images))


def test_in_painting_of_a_wide_picture(pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]) -> None:
    begin = np.random.default_rng(0).integers(0, 256, (48, 96, 3), dtype=np.uint8)
    mask = np.zeros((48, 96), dtype=np.uint8)
    mask[:, 48:] = 255
    drawn = as_arrays(wide(pipeline, neighbors[0], image=begin, mask_image=mask).images)[0]
    assert np.abs(drawn.astype(int) - begin)[:, :48].max() <= 1


def test_the_size_of_training_is_the_same_as_none(pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]) -> None:
    plain = pipeline(PROMPTS[0], neighbors[0], num_inference_steps=3, generator=seeded([1]))
    told = wide(pipeline, neighbors[0], height=64, width=64)
    assert np.array_equal(as_arrays(plain.images), as_arrays(told.images))
    assert "size" not in told.provenance[0].settings


def test_a_frame_keeps_the_aspect_and_fills_up_with_white() -> None:
    tall = np.zeros((20, 10, 3), dtype=np.uint8)
    framed = framed_pixels(tall, (10, 20))
    assert framed.shape == (10, 20, 3)
    black = (framed == 0).all(-1)
    assert black[:, 8:12].all()
    assert black.sum() <= 10 * 6
    assert mask_pixels((0.5, 0, 1, 1), (4, 8))[:, 4:].min() == 255


@pytest.mark.parametrize("size", [(60, 64), (64, 4), (-8, 64)])
def test_a_size_that_cannot_be_is_refused(pipeline: RetrievalPipeline, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="height, width: expected multiples of 8 pixels"):
        pipeline(PROMPTS[0], num_neighbors=0, height=size[0], width=size[1])
