"""The same picture again from its own file, over every guidance and scheduler, or the reason why not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from rag_diffusion.errors import LineageError
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.sampling.denoise import SCHEDULERS
from rag_diffusion.sampling.guidance import MODES, Guidance
from rag_diffusion.sampling.output import as_arrays
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.provenance import Provenance, read_provenance
from rag_diffusion.sampling.schedule import RetrievalSchedule
from rag_diffusion.sampling.seeds import seeded
from rag_diffusion.store.corpus import Corpus
from tests.unit.sampling.prompts import LISTS, PROMPTS, quiet


def through_json(origin: Provenance) -> Provenance:
    """As a file has it."""

    return Provenance.from_dict(json.loads(origin.as_json()))


def same(pipeline: RetrievalPipeline, origin: Provenance, drawn: torch.Tensor, **more: Any) -> None:
    again = pipeline.redraw(through_json(origin), **more)
    pixels = torch.as_tensor((np.asarray(again.images[0]).astype(np.float32)) / 255)
    expected = drawn.permute(1, 2, 0)
    torch.testing.assert_close(pixels, expected, atol=0.5 / 255 + 1e-4, rtol=0)
    assert again.provenance[0].settings == origin.settings
    assert again.provenance[0].phases == origin.phases


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("mode", MODES)
def test_every_guidance_and_scheduler_draws_the_same_again(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]], scheduler: str, mode: str
) -> None:
    pipeline.scheduler = getattr(diffusers, scheduler).from_config(pipeline.scheduler.config)
    rows = slice(1, 2) if scheduler.startswith("Heun") else slice(None)  # its last division shows how sums are rounded
    guidance = Guidance(mode=mode, text_guidance_scale=2.5, interleave_ratio=0.3, parallel_share=0.5)
    found = pipeline(
        PROMPTS[rows], neighbors[rows], guidance=guidance, num_inference_steps=4, output_type="pt", keep_pictures=True,
        generator=torch.Generator().manual_seed(7),
    )  # fmt: skip
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    place = min(1, len(found.images) - 1)
    same(pipeline, found.provenance[place], found.images[place])
    assert type(pipeline.scheduler) is diffusers.DDIMScheduler, "the pipeline is left as it was"


def test_weights_phases_precision_and_an_unusual_scheduler_are_part_of_it(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]
) -> None:
    one, two = neighbors[0]
    pipeline.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, solver_order=3)
    found = pipeline(
        PROMPTS[0], [replace(one, weight=2.0), replace(two, weight=0.5)], num_inference_steps=5, output_type="pt",
        retrieval_schedule=RetrievalSchedule(counts=((0.4, 1), (0.8, 0))), keep_pictures=True, thresholding="dynamic",
    )  # fmt: skip
    origin = found.provenance[0]
    assert [(phase.start, len(phase.pair_ids)) for phase in origin.phases] == [(0, 2), (2, 1), (4, 0)]
    assert [source.weight for source in origin.neighbors] == [2.0, 0.5]
    assert origin.settings["scheduler_config"]["solver_order"] == 3
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.precision = "bf16"
    same(pipeline, origin, found.images[0])
    assert pipeline.precision == "bf16"


def test_a_file_alone_is_enough_where_it_keeps_the_pictures(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]], tmp_path: Path
) -> None:
    begin = neighbors[1][0].image
    given: dict[str, Any] = {"num_inference_steps": 4, "image": begin, "strength": 0.5}
    found = pipeline(PROMPTS[0], neighbors[0], keep_pictures=True, generator=seeded([3]), **given)
    (path,) = found.save(tmp_path)
    assert np.array_equal(as_arrays(pipeline.redraw(path).images), as_arrays(found.images))
    bare = pipeline(PROMPTS[0], neighbors[0], generator=seeded([3]), **given).provenance[0]
    assert not bare.neighbors[0].image
    assert len(bare.as_json()) < 0.6 * len(read_provenance(path).as_json())
    with pytest.raises(LineageError, match="red-circle .* is not there; .*; it began with a picture"):
        pipeline.redraw(bare)
    again = pipeline.redraw(bare, neighbors[0], image=begin)
    assert np.array_equal(as_arrays(again.images), as_arrays(found.images))


def test_what_cannot_be_drawn_again_says_why(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]], tmp_path: Path, tiny_corpus: Corpus
) -> None:
    kept: dict[str, Any] = {"num_inference_steps": 2, "keep_pictures": True}
    plain = pipeline(PROMPTS[0], neighbors[0], **kept).provenance[0]
    with pytest.raises(LineageError, match="it was drawn by model abc, and this is one without a hash; load that one"):
        pipeline.redraw(replace(plain, model_hash="abc"))
    with pytest.raises(LineageError, match="its provenance is of version 3"):
        pipeline.redraw(replace(plain, version=3))
    noise = torch.randn(1, *pipeline.generator.sample_shape)
    by_hand = pipeline(PROMPTS[0], neighbors[0], latents=noise, output_type="pt", generator=seeded([1]), **kept)
    assert by_hand.provenance[0].seed == 1
    with pytest.raises(LineageError, match="it began with noise given by hand, of hash .*; give it by latents="):
        pipeline.redraw(by_hand.provenance[0])
    same(pipeline, by_hand.provenance[0], by_hand.images[0], latents=noise)

    def change(pipe: Any, number: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        return {"latents": values["latents"] * 0.9}

    changed = pipeline(PROMPTS[0], neighbors[0], callback_on_step_end=change, **kept).provenance[0]
    with pytest.raises(LineageError, match="a callback changed it on the way"):
        pipeline.redraw(changed)
    seen = pipeline(PROMPTS[0], neighbors[0], callback_on_step_end=lambda *_: {}, **kept).provenance[0]
    assert "changed_by_callback" not in seen.settings
    bare = pipeline(PROMPTS[0], neighbors[0], num_inference_steps=2).provenance[0]
    other = replace(neighbors[0][0], caption="another one")
    with pytest.raises(LineageError, match="its neighbor tiny/noto/red-circle .* is another one now"):
        pipeline.redraw(bare, [other])
    assert quiet(pipeline).redraw(bare, neighbors[0]).provenance[0].phases[0].pair_ids == tuple(LISTS[0])


def test_a_joint_drawing_of_a_former_version_had_one_scale(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]
) -> None:
    given: dict[str, Any] = {"num_inference_steps": 3, "output_type": "pt", "keep_pictures": True}
    guidance = Guidance(mode="joint", text_guidance_scale=2.0, neighbor_guidance_scale=2.0)
    found = pipeline(PROMPTS[0], neighbors[0], guidance=guidance, generator=seeded([3]), **given)
    told = json.loads(found.provenance[0].as_json())
    told["settings"]["guidance"]["neighbor_guidance_scale"] = 6.0  # it stood there, without effect
    again = pipeline.redraw(Provenance.from_dict(told | {"version": 4}))

    pixels = np.asarray(again.images[0]).astype(np.float32) / 255
    assert np.abs(pixels - found.images[0].permute(1, 2, 0).numpy()).max() < 1 / 255
