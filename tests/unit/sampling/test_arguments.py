"""Arguments that users of diffusers know: what they mean here, and what is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rag_diffusion.errors import ConfigError
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.sampling.arguments import REFUSED, guidance_of
from rag_diffusion.sampling.denoise import make_scheduler
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.seeds import seeded
from tests.unit.sampling.prompts import PROMPTS


def latents(pipeline: RetrievalPipeline, neighbors: list[Neighbor], **more: Any) -> torch.Tensor:
    given = {"num_inference_steps": 4, "output_type": "latent", "generator": seeded([1])} | more
    found: torch.Tensor = pipeline(PROMPTS[0], neighbors, **given).images
    return found


def test_a_negative_prompt_takes_the_place_of_the_empty_text(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]
) -> None:
    plain = latents(pipeline, neighbors[0])
    assert torch.equal(latents(pipeline, neighbors[0], negative_prompt=""), plain)
    assert not torch.allclose(latents(pipeline, neighbors[0], negative_prompt="a green bar"), plain, atol=1e-3)
    with pytest.raises(ValueError, match="negative_prompt: expected a text, or one for each of 1 prompts"):
        latents(pipeline, neighbors[0], negative_prompt=["a", "b"])


def test_guidance_scale_is_that_of_the_text() -> None:
    assert guidance_of(None, 7.5) == Guidance(text_guidance_scale=7.5)
    assert guidance_of(None, None) == Guidance()
    assert guidance_of(None, 1.0).guides is False
    with pytest.raises(ValueError, match="guidance_scale: expected it or guidance, got both"):
        guidance_of(Guidance(), 2.0)


def test_eta_draws_noise_anew_and_only_ddim_knows_it(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]
) -> None:
    plain, noisy = latents(pipeline, neighbors[0]), latents(pipeline, neighbors[0], eta=1.0)
    assert not torch.allclose(plain, noisy, atol=1e-3)
    assert torch.equal(noisy, latents(pipeline, neighbors[0], eta=1.0)), "from the image's own seed"
    pipeline.scheduler = make_scheduler("EulerDiscreteScheduler", pipeline.generator.schedule)
    with pytest.raises(ConfigError, match="eta: expected 0, or the DDIMScheduler"):
        latents(pipeline, neighbors[0], eta=1.0)


def test_timesteps_by_hand(pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]) -> None:
    with pytest.raises(ConfigError, match="timesteps: expected a scheduler that takes them .*, got DDIMScheduler"):
        latents(pipeline, neighbors[0], timesteps=[999, 500])
    pipeline.scheduler = make_scheduler("DPMSolverMultistepScheduler", pipeline.generator.schedule)
    spaced = latents(pipeline, neighbors[0])
    steps = [int(step) for step in pipeline.scheduler.timesteps]
    torch.testing.assert_close(latents(pipeline, neighbors[0], timesteps=steps, num_inference_steps=20), spaced)
    assert pipeline.num_timesteps == 4
    pipeline.scheduler = make_scheduler("EulerDiscreteScheduler", pipeline.generator.schedule)
    with pytest.raises(ConfigError, match="timesteps that are no integers"):
        latents(pipeline, neighbors[0], sigmas=[10.0, 3.3, 0.7])


def test_a_tuple_where_no_dictionary_is_wanted(pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]) -> None:
    given: dict[str, Any] = {"num_inference_steps": 1, "output_type": "np"}
    whole = pipeline(PROMPTS[0], neighbors[0], generator=seeded([1]), **given)
    images, provenance, _ = pipeline(PROMPTS[0], neighbors[0], generator=seeded([1]), return_dict=False, **given)
    assert np.array_equal(images, whole.images)
    assert provenance == whole.provenance


def test_a_callback_gets_what_it_asks_for_and_may_change_embeddings_and_scale(
    pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]
) -> None:
    names = pipeline._callback_tensor_inputs

    def change(pipe: Any, number: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        assert tuple(values) == names
        pipe._guidance_scale += 1
        return {"prompt_embeds": torch.zeros_like(values["prompt_embeds"])} if number == 1 else {}

    plain = latents(pipeline, neighbors[0])
    given: dict[str, Any] = {"callback_on_step_end": change, "callback_on_step_end_tensor_inputs": names}
    found = pipeline(PROMPTS[0], neighbors[0], num_inference_steps=4, guidance_scale=2.0, **given)
    assert pipeline.guidance_scale == 2 + pipeline.num_timesteps
    assert found.provenance[0].settings["changed_by_callback"]
    assert not torch.allclose(latents(pipeline, neighbors[0], **given), plain, atol=1e-3)
    with pytest.raises(ValueError, match=r"callback_on_step_end_tensor_inputs: .* got \['noise'\]"):
        latents(pipeline, neighbors[0], callback_on_step_end=change, callback_on_step_end_tensor_inputs=["noise"])


def test_a_callback_may_interrupt(pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]) -> None:
    seen: list[torch.Tensor] = []

    def stop(pipe: Any, number: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        seen.append(values["latents"])
        pipe._interrupt = number == 1
        return {}

    found = latents(pipeline, neighbors[0], callback_on_step_end=stop)
    assert len(seen) == 2
    assert pipeline.interrupt
    assert torch.equal(found, seen[1])
    latents(pipeline, neighbors[0])
    assert not pipeline.interrupt


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_is_refused_with_its_reason(pipeline: RetrievalPipeline, name: str) -> None:
    with pytest.raises(TypeError, match=f"{name}: "):
        pipeline(PROMPTS[0], num_neighbors=0, **{name: 1})


def test_what_nobody_knows_is_refused(pipeline: RetrievalPipeline) -> None:
    with pytest.raises(TypeError, match="colour: the pipeline has no such argument"):
        pipeline(PROMPTS[0], num_neighbors=0, colour="red")
