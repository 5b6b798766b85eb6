"""Published pipelines through RetrievalPipeline: diffusers' own pictures without neighbors, ours with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image

from rag_diffusion.errors import ModelError
from rag_diffusion.models.load import load_generator
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.sampling.guidance import Guidance, GuidanceStep
from rag_diffusion.sampling.guided import GuidedPrediction
from rag_diffusion.sampling.neighbor_cache import NeighborCache
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.seeds import seeded
from tests.unit.models.pipelines import save

FAMILIES = ("sd", "sdxl", "if")
PROMPTS = ["a red circle", "a blue ring"]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(family)
    save(family, folder)
    return folder / "pipeline"


def load(folder: Path, scheduler: str = "DDIMScheduler", *, random: bool = True) -> RetrievalPipeline:
    pipeline = RetrievalPipeline.from_pretrained(folder, scheduler=scheduler, neighbor_skips=(1,), neighbor_head_dim=16)
    if random:
        torch.manual_seed(1)
        pipeline.generator.unet.randomize_output(0.5)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def neighbors(size: int = 16) -> list[Neighbor]:
    draws = np.random.default_rng(0)
    return [
        Neighbor(image=draws.integers(0, 256, (size, size, 3), dtype=np.uint8), caption=text, pair_id=text)
        for text in ("a ring", "a red dot")
    ]


def drawn(pipeline: RetrievalPipeline, given: list[Neighbor] | None, **more: Any) -> torch.Tensor:
    options: dict[str, Any] = {"num_inference_steps": 4, "output_type": "pt", "generator": seeded([1, 2])} | more
    if given is None:
        options["num_neighbors"] = 0
    return pipeline(PROMPTS, given, **options).images


def test_without_neighbors_it_draws_what_diffusers_draws(family: str, folder: Path) -> None:
    """The same noise, text guidance and scheduler; random neighbor attention, which must not be heard."""
    ours = load(folder)
    theirs = type(ours.generator.published).from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {"num_inference_steps": 4, "generator": seeded([1, 2]), "guidance_scale": 3.0}
    if family == "if":  # its own loop adds learned variance; thresholding is ours
        ours = load(folder, "DDPMScheduler")
        theirs.scheduler = ours.scheduler
        found = theirs(PROMPTS, **options, output_type="pt", height=8, width=8).images
        found = (found / 2 + 0.5).clamp(0, 1) if found.min() < 0 else found
    else:
        theirs.scheduler = ours.scheduler
        found = theirs(PROMPTS, **options, output_type="pt").images
    guidance = Guidance(mode="text", text_guidance_scale=3.0)
    torch.testing.assert_close(drawn(ours, None, guidance=guidance, thresholding="none"), found, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("mode", ["text", "neighbor", "alternate", "joint"])
def test_with_neighbors_it_draws_otherwise_and_says_from_what(folder: Path, mode: str) -> None:
    pipeline = load(folder)
    guidance = Guidance(mode=mode)
    assert not torch.allclose(drawn(pipeline, None), drawn(pipeline, neighbors(), guidance=guidance))
    found = pipeline(PROMPTS, neighbors(), num_inference_steps=2, guidance=guidance)
    assert isinstance(found.images[0], Image.Image)
    for one in found.provenance:
        assert [source.pair_id for source in one.neighbors] == ["a ring", "a red dot"]
        assert sum(source.attention for source in one.neighbors) + one.null_attention == pytest.approx(1, abs=1e-4)


def test_freshly_read_it_equals_its_base_with_neighbors_too(folder: Path) -> None:
    """Zero output projections: fine-tuning starts at the checkpoint."""
    pipeline = load(folder, random=False)
    guidance = Guidance(mode="none")
    torch.testing.assert_close(
        drawn(pipeline, None, guidance=guidance), drawn(pipeline, neighbors(), guidance=guidance)
    )


def test_saved_and_read_again_it_draws_the_same(family: str, folder: Path, tmp_path: Path) -> None:
    pipeline = load(folder)
    pipeline.save_pretrained(tmp_path)
    again = RetrievalPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(drawn(pipeline, neighbors()), drawn(again, neighbors()))
    if family == "sd":
        plain = StableDiffusionPipeline.from_pretrained(tmp_path)  # what is saved is still theirs
        assert type(plain.unet) is UNet2DConditionModel


def test_a_neighbor_is_encoded_by_the_mode_and_never_scaled_for_a_step(folder: Path) -> None:
    pipeline = load(folder, "EulerDiscreteScheduler")
    given = neighbors()
    with torch.no_grad():
        one, two = (NeighborCache(pipeline.generator).features([given]) for _ in range(2))
        drawn(pipeline, given)
        after = NeighborCache(pipeline.generator).features([given])
    assert one is not None
    assert two is not None
    assert after is not None
    for name, kv in one.items():
        assert torch.equal(kv.keys, two[name].keys)
        assert torch.equal(kv.keys, after[name].keys)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DDPMScheduler", "DPMSolverMultistepScheduler", "HeunDiscreteScheduler"])
def test_every_kind_of_scheduler_draws_finite_pictures(folder: Path, name: str) -> None:
    assert bool(drawn(load(folder, name), neighbors(), output_type="latent").isfinite().all())


def test_half_of_six_channels_is_guided(tmp_path: Path) -> None:
    """The learned variance of a guided prediction is that of the full one."""
    save("if", tmp_path)
    pipeline = load(tmp_path / "pipeline", "DDPMScheduler")
    model, prompts = pipeline.generator, PROMPTS[:1]
    text, null = model.text_encoder(prompts), model.text_encoder([""])
    guided = GuidedPrediction(generator=model, guidance=Guidance(text_guidance_scale=7.0), text=text, null=null)
    sample, timestep = torch.randn(1, *model.sample_shape), torch.tensor(500)
    with torch.no_grad():
        found = guided(sample, timestep, [GuidanceStep.TEXT], None, [False])
        full = model.predict(sample, timestep, text, None)
        reduced = model.predict(sample, timestep, null, None)
    assert found.shape[1] == 6
    torch.testing.assert_close(found[:, 3:], full[:, 3:], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[:, :3], 7 * full[:, :3] - 6 * reduced[:, :3], atol=1e-4, rtol=1e-4)


def test_prediction_type_and_betas_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    pipeline = save("sd", tmp_path)
    pipeline.scheduler = DDIMScheduler(prediction_type="v_prediction", beta_schedule="scaled_linear")
    pipeline.save_pretrained(tmp_path / "v")
    loaded = load(tmp_path / "v")
    assert loaded.generator.prediction_type == loaded.scheduler.config.prediction_type == "v_prediction"
    expected = DDPMScheduler(beta_schedule="scaled_linear").alphas_cumprod
    torch.testing.assert_close(loaded.scheduler.alphas_cumprod, expected)


def test_offload_brings_each_part_in_when_it_is_needed(folder: Path) -> None:
    from accelerate import cpu_offload

    pipeline = load(folder)
    before = drawn(pipeline, neighbors())
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            cpu_offload(part, execution_device="cpu", offload_buffers=True)
    assert torch.equal(before, drawn(pipeline, neighbors()))


def test_model_offload_of_diffusers_works(folder: Path) -> None:
    pipeline = load(folder)
    before = drawn(pipeline, neighbors())
    pipeline.enable_model_cpu_offload(device="cpu")
    assert all(hasattr(pipeline.components[name], "_hf_hook") for name in ("unet", "text_encoder"))
    assert torch.equal(before, drawn(pipeline, neighbors()))
    assert torch.equal(before, drawn(pipeline, neighbors()))


def test_another_family_or_a_name_that_cannot_be_had_is_told(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ModelError, match="expected a pipeline of StableDiffusionPipeline, .* got FluxPipeline"):
        load_generator(tmp_path)
    with pytest.raises(ModelError, match="expected a generator's folder with generator.json, or a diffusers pipeline"):
        load_generator(tmp_path / "nowhere")


def test_a_damaged_pipeline_is_told(tmp_path: Path) -> None:
    save("sd", tmp_path)
    weights = tmp_path / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match="expected a complete StableDiffusionPipeline"):
        load_generator(tmp_path / "pipeline")
