"""What diffusers demands of its pipelines, of ours over every family of generators, neighbors among what they see."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch

from rag_diffusion.errors import ModelError, VariantError
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.seeds import seeded
from tests.unit.sampling.families import components, inputs
from tests.unit.sampling.prompts import quiet

FAMILIES = ("sd", "sdxl", "if", "own")
EMBEDS = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
TEXTS = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def parts(family: str) -> dict[str, Any]:
    return components(family)


@pytest.fixture
def pipe(parts: dict[str, Any]) -> RetrievalPipeline:
    return quiet(RetrievalPipeline(**parts))


def drawn(pipe: RetrievalPipeline, **more: Any) -> torch.Tensor:
    found: torch.Tensor = pipe(**inputs() | more).images
    return found


def close(one: torch.Tensor, other: torch.Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(one, other, atol=atol, rtol=1e-4)


def test_parts_make_it_and_it_has_them(pipe: RetrievalPipeline, parts: dict[str, Any]) -> None:
    assert pipe.components.keys() == parts.keys()
    assert all(pipe.components[name] is part for name, part in parts.items() if isinstance(part, torch.nn.Module))


def test_saved_and_read_it_draws_the_same(pipe: RetrievalPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    close(drawn(quiet(RetrievalPipeline.from_pretrained(tmp_path))), drawn(pipe))


def test_a_variant_is_written_and_read_and_a_missing_one_is_told(pipe: RetrievalPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path, variant="fp16")
    assert (tmp_path / "unet" / "diffusion_pytorch_model.fp16.safetensors").exists()
    close(drawn(quiet(RetrievalPipeline.from_pretrained(tmp_path, variant="fp16"))), drawn(pipe))
    with pytest.raises(VariantError, match="the model files of the `variant=bf16`"):
        RetrievalPipeline.from_pretrained(tmp_path, variant="bf16")
    assert issubclass(VariantError, ValueError)


def test_every_part_may_have_a_type_of_its_own(pipe: RetrievalPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    types = {"unet": torch.bfloat16, "default": torch.float16}
    read = RetrievalPipeline.from_pretrained(tmp_path, torch_dtype=types)
    found = {name: part.dtype for name, part in read.components.items() if isinstance(part, torch.nn.Module)}
    assert found == {name: types.get(name, torch.float16) for name in found}
    assert {"unet", "text_encoder"} <= found.keys()


def test_what_may_be_missing_may_be_missing(pipe: RetrievalPipeline, tmp_path: Path) -> None:
    before = drawn(pipe)
    assert not {"unet", "scheduler", "text_encoder"} & set(pipe._optional_components)
    for name in pipe._optional_components:
        setattr(pipe, name, None)
    assert torch.equal(drawn(pipe), before)
    pipe.save_pretrained(tmp_path)
    read = quiet(RetrievalPipeline.from_pretrained(tmp_path))
    assert all(getattr(read, name) is None for name in pipe._optional_components)
    close(drawn(read), before)


def test_a_batch_draws_what_one_prompt_draws(pipe: RetrievalPipeline) -> None:
    prompt = inputs()["prompt"]
    batch = drawn(pipe, prompt=[prompt, prompt[:5], "a ring"], generator=seeded([0, 1, 2]))
    assert len(batch) == 3
    close(batch[:1], drawn(pipe, generator=seeded([0])))


@pytest.mark.parametrize("prompts", [1, 2])
def test_images_per_prompt(pipe: RetrievalPipeline, prompts: int) -> None:
    found = drawn(pipe, prompt=["a ring"] * prompts, num_images_per_prompt=2)
    assert len(found) == 2 * prompts


def test_a_tuple_holds_the_same_images(pipe: RetrievalPipeline) -> None:
    assert torch.equal(pipe(**inputs(), return_dict=False)[0], drawn(pipe))


def test_guidance_is_off_at_one(pipe: RetrievalPipeline) -> None:
    assert not torch.allclose(drawn(pipe, guidance_scale=1.0), drawn(pipe, guidance_scale=7.5), atol=1e-3)


def test_a_callback_gets_every_tensor_and_may_change_it(pipe: RetrievalPipeline) -> None:
    names = pipe._callback_tensor_inputs

    def blank(one: Any, number: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        assert set(values) == set(names)
        one._guidance_scale += 1
        last = number == one.num_timesteps - 1
        return values | {"latents": torch.zeros_like(values["latents"])} if last else values

    found = drawn(
        pipe, callback_on_step_end=blank, callback_on_step_end_tensor_inputs=names, output_type="latent",
        guidance_scale=2.0,
    )  # fmt: skip
    assert found.abs().sum() == 0
    assert pipe.guidance_scale == 2 + pipe.num_timesteps


def test_types_of_all_weights(pipe: RetrievalPipeline, parts: dict[str, Any]) -> None:
    pipe.to(dtype=torch.bfloat16)
    modules = [part for part in parts.values() if isinstance(part, torch.nn.Module)]
    assert {part.dtype for part in modules} == {torch.bfloat16}
    assert drawn(pipe).isfinite().all()


def test_prompts_are_encoded_by_one_pipeline_and_drawn_by_another(
    family: str, pipe: RetrievalPipeline, parts: dict[str, Any]
) -> None:
    texts = {name: part for name, part in parts.items() if name in TEXTS}
    rest = {name: part for name, part in parts.items() if name not in TEXTS}
    encoder, draws = RetrievalPipeline(**texts), quiet(RetrievalPipeline(**rest))
    prompt = inputs()["prompt"]
    embeds = dict(zip(EMBEDS, encoder.encode_prompt(prompt), strict=False))
    assert len(embeds) == (4 if family == "sdxl" else 2)
    call = inputs(shown=False)
    call.pop("prompt")
    close(draws(**call, **embeds).images, pipe(**inputs(shown=False)).images)
    with pytest.raises(ModelError, match="unet: expected one, got None; a pipeline without it encodes prompts"):
        drawn(encoder)
    with pytest.raises(ModelError, match="text_encoder: expected one that reads texts, got None"):
        drawn(draws)


def test_slices_of_attention_change_nothing(pipe: RetrievalPipeline) -> None:
    before = drawn(pipe)
    pipe.enable_attention_slicing(slice_size=1)
    close(drawn(pipe), before)


def test_offloaded_it_draws_the_same(pipe: RetrievalPipeline) -> None:
    before = drawn(pipe)
    pipe.enable_model_cpu_offload(device="cpu")
    close(drawn(pipe), before)
    close(drawn(pipe), before)
    gc.collect()
