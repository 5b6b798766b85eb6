"""Clips with changed weights: frames that follow others are drawn with them, pictures and first frames as before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rag_diffusion.errors import ModelError
from rag_diffusion.models.frames import changes, save_changes, sharing
from rag_diffusion.models.generator import Generator
from rag_diffusion.sampling.clip_output import RolloutOutput
from rag_diffusion.sampling.output import as_arrays
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from tests.tiny import draw
from tests.unit.sampling.prompts import quiet

BEGIN = draw("circle", "red", 0)


@pytest.fixture
def folder(tiny_generator: Generator, tmp_path: Path) -> Path:
    unet = sharing(tiny_generator.unet)
    unet.conv_out.bias = torch.nn.Parameter(unet.conv_out.bias.detach() + 0.5)
    drawing = {"num_inference_steps": 2, "guidance": {"mode": "none"}}
    save_changes(tmp_path, unet, changes(unet, tiny_generator.unet), drawing=drawing)
    return tmp_path


def roll(pipeline: RetrievalPipeline, **how: object) -> RolloutOutput:
    return pipeline.rollout("a disc", num_frames=3, generator=torch.Generator().manual_seed(3), **how)


def test_next_frames_are_drawn_with_the_changes_and_pictures_without(tiny_generator: Generator, folder: Path) -> None:
    pipeline = quiet(RetrievalPipeline(tiny_generator))
    seed = torch.Generator().manual_seed
    how = {"num_inference_steps": 2}
    before, picture = roll(pipeline, **how), as_arrays(pipeline("a disc", [], generator=seed(1), **how).images)
    pipeline.load_frames(folder)
    after, again = roll(pipeline, **how), as_arrays(pipeline("a disc", [], generator=seed(1), **how).images)
    assert np.array_equal(picture, again)
    first, second = (as_arrays([out.frames[number] for out in (before, after)]) for number in (0, 1))
    assert np.array_equal(*first)
    assert not np.array_equal(*second)
    told = [origin.model_hash for origin in after.provenance if origin is not None]
    assert told[0] != told[1] == told[2]


def test_frames_are_drawn_as_the_changes_were_tuned_unless_asked_otherwise(
    tiny_generator: Generator, folder: Path
) -> None:
    pipeline = quiet(RetrievalPipeline(tiny_generator)).load_frames(folder)
    tuned, asked = roll(pipeline, frames=BEGIN), roll(pipeline, frames=BEGIN, num_inference_steps=3)
    steps = [out.provenance[1].settings["num_inference_steps"] for out in (tuned, asked)]
    assert steps == [2, 3]
    assert tuned.provenance[1].settings["guidance"]["mode"] == "none"


def test_changes_that_do_not_fit_are_told_and_not_taken(tiny_generator: Generator, folder: Path) -> None:
    (folder / "changes.safetensors").unlink()
    pipeline = quiet(RetrievalPipeline(tiny_generator))
    with pytest.raises(ModelError, match="expected changes that fit the generator"):
        pipeline.load_frames(folder)
    assert pipeline.frames is None
