"""The parts of a pipeline as diffusers has them: in, out, replaced, moved, and back; weights are never copied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UNet2DConditionModel,
)

from rag_diffusion.errors import ConfigError, ModelError
from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.models.unet import RetrievalUNet
from rag_diffusion.sampling import custom_pipeline
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.seeds import seeded
from tests.unit.models.bases import STABLE_DIFFUSION
from tests.unit.models.pipelines import save
from tests.unit.models.single_files import write_single_file
from tests.unit.sampling.prompts import PROMPTS, ours, quiet

FAMILIES = ("sd", "sdxl", "if")
TEXT = Guidance(mode="text", text_guidance_scale=3.0)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def theirs(family: str, tmp_path: Path) -> Any:
    return save(family, tmp_path)


def shown(side: int = 16) -> list[Neighbor]:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return [Neighbor(image=pixels, caption="a ring", pair_id="ring")]


def drawn(pipe: Any, *given: Any, **more: Any) -> torch.Tensor:
    options: dict[str, Any] = {"num_inference_steps": 3, "output_type": "pt", "generator": seeded([1])} | more
    if isinstance(pipe, RetrievalPipeline) and not given:
        options["num_neighbors"] = 0
    found: torch.Tensor = pipe("a red dot", *given, **options).images
    return found


def test_from_pipe_copies_no_weight_and_draws_what_the_base_draws(family: str, theirs: Any) -> None:
    before = {name: value.clone() for name, value in theirs.unet.state_dict().items()}
    pipe = ours(theirs)
    for name, value in theirs.unet.named_parameters():
        assert dict(pipe.unet.named_parameters())[name] is value, name
    assert all(
        pipe.components[name] is part for name, part in theirs.components.items() if name in ("vae", "text_encoder")
    )
    assert type(theirs.unet) is UNet2DConditionModel
    assert theirs.unet.state_dict().keys() == before.keys()
    if family != "if":  # whose own loop thresholds
        theirs.scheduler = pipe.scheduler
        expected = drawn(theirs, guidance_scale=3.0)
        torch.testing.assert_close(drawn(pipe, guidance=TEXT), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(drawn(pipe, shown(), guidance=TEXT), drawn(pipe, guidance=TEXT), atol=1e-3)


def test_as_base_is_the_way_back(family: str, theirs: Any) -> None:
    pipe = ours(theirs)
    base = quiet(pipe.as_base())
    assert type(base) is type(theirs)
    assert type(base.unet) is UNet2DConditionModel
    assert base.unet.conv_in.weight is theirs.unet.conv_in.weight
    size = {"height": 8, "width": 8} if family == "if" else {}
    assert torch.equal(drawn(base, **size), drawn(theirs, **size))


def test_made_of_its_own_components_it_draws_the_same(theirs: Any) -> None:
    pipe = ours(theirs)
    again = quiet(RetrievalPipeline(**pipe.components))
    assert again.components.keys() == pipe.components.keys()
    assert torch.equal(drawn(again, shown()), drawn(pipe, shown()))


def test_diffusers_reads_what_is_saved_as_ours(family: str, theirs: Any, tmp_path: Path) -> None:
    pipe = ours(theirs)
    pipe.save_pretrained(tmp_path / "saved")
    options = {"custom_pipeline": custom_pipeline.__file__, "trust_remote_code": True}
    if family == "if":
        options |= {"safety_checker": None, "feature_extractor": None, "watermarker": None}
    read = quiet(DiffusionPipeline.from_pretrained(tmp_path / "saved", **options))
    assert isinstance(read, RetrievalPipeline)
    torch.testing.assert_close(drawn(read, shown()), drawn(pipe, shown()), atol=1e-5, rtol=1e-4)


def test_variants_and_shards(theirs: Any, tmp_path: Path) -> None:
    pipe = ours(theirs)
    pipe.save_pretrained(tmp_path / "saved", variant="fp16", max_shard_size="100KB")
    files = sorted(path.name for path in (tmp_path / "saved" / "unet").iterdir())
    assert any("fp16-00001-of" in name for name in files), files
    read = quiet(RetrievalPipeline.from_pretrained(tmp_path / "saved", variant="fp16"))
    torch.testing.assert_close(drawn(read, shown()), drawn(pipe, shown()), atol=1e-5, rtol=1e-4)
    with pytest.raises(ModelError, match="variant"):
        RetrievalPipeline.from_pretrained(tmp_path / "saved", variant="bf16")
    with pytest.raises(ValueError, match="safe_serialization: expected True; pickled weights run code"):
        pipe.save_pretrained(tmp_path / "pickled", safe_serialization=False)


def test_weights_of_another_type(theirs: Any) -> None:
    pipe = ours(theirs)
    exact = drawn(pipe, shown())
    assert pipe.to("cpu", torch.bfloat16).dtype is torch.bfloat16
    assert {part.dtype for part in pipe.components.values() if isinstance(part, torch.nn.Module)} == {torch.bfloat16}
    half = drawn(pipe, shown())
    assert 0 < (half - exact).abs().mean() < 0.1
    assert pipe.to(torch.float32).dtype is torch.float32


def test_offload(theirs: Any) -> None:
    pipe = ours(theirs)
    before = drawn(pipe, shown())
    pipe.enable_model_cpu_offload(device="cpu")
    assert torch.equal(drawn(pipe, shown()), before)
    assert torch.equal(drawn(pipe, shown()), before)
    pipe.remove_all_hooks()
    pipe.unet.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")
    assert torch.equal(drawn(pipe, shown()), before)


def test_a_part_that_is_replaced_is_the_one_that_draws(tmp_path: Path) -> None:
    theirs, other = save("sd", tmp_path / "one"), save("sd", tmp_path / "two")
    for parameter in (*other.vae.parameters(), *other.text_encoder.parameters()):
        torch.nn.init.normal_(parameter, std=0.2)
    pipe = ours(theirs)
    found = [drawn(pipe, shown())]
    for name in ("vae", "text_encoder"):
        setattr(pipe, name, getattr(other, name))
        found.append(drawn(pipe, shown()))
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])


def test_a_scheduler_of_theirs_is_kept_where_it_fits(tmp_path: Path) -> None:
    theirs = save("sd", tmp_path)
    theirs.scheduler = EulerDiscreteScheduler.from_config(theirs.scheduler.config)
    assert ours(theirs).scheduler is theirs.scheduler
    theirs.scheduler = PNDMScheduler.from_config(theirs.scheduler.config)
    with pytest.warns(UserWarning, match="PNDMScheduler was saved with these weights, and is none that passed"):
        assert type(ours(theirs).scheduler).__name__ == "DDIMScheduler"


def test_a_pipeline_of_our_own_has_parts_too(pipeline: RetrievalPipeline, neighbors: list[list[Neighbor]]) -> None:
    parts = pipeline.components
    assert type(parts["unet"]) is RetrievalUNet
    assert isinstance(parts["text_encoder"], torch.nn.Module)
    assert parts["vae"] is None
    for name in ("load_lora_weights", "load_textual_inversion", "load_ip_adapter", "as_base"):
        with pytest.raises(
            ModelError, match=f"{'components' if name == 'as_base' else name}: expected a base of diffusers"
        ):
            getattr(pipeline, name)()
    with pytest.raises(ModelError, match="enable_vae_tiling: expected a generator with a VAE"):
        pipeline.enable_vae_tiling()
    states, null = pipeline.encode_prompt(PROMPTS[0])
    given: dict[str, Any] = {"num_inference_steps": 2, "output_type": "latent"}
    by_text = pipeline(PROMPTS[0], neighbors[0], generator=seeded([1]), **given).images
    by_tensor = pipeline(
        None, neighbors[0], prompt_embeds=states, negative_prompt_embeds=null, generator=seeded([1]), **given
    ).images
    assert torch.equal(by_text, by_tensor)
    pipeline.to(torch.bfloat16)
    assert pipeline(PROMPTS[0], neighbors[0], **given).images.isfinite().all()
    pipeline.to(torch.float32)  # the text encoder is that of other tests, too


def test_without_a_network_nothing_is_drawn() -> None:
    with pytest.raises(ModelError, match="unet: expected one, got None"):
        RetrievalPipeline()


@pytest.mark.parametrize("one", ["sd", "sdxl"])
def test_a_single_file_draws_what_its_folder_draws(one: str, tmp_path: Path) -> None:
    theirs = save(one, tmp_path)
    file = write_single_file(theirs.unet, tmp_path / "one.safetensors")
    parts = {name: getattr(theirs, name) for name in ("vae", "text_encoder", "text_encoder_2") if hasattr(theirs, name)}
    read = RetrievalPipeline.from_single_file(file, config=str(tmp_path / "pipeline"), neighbor_skips=(1,), **parts)
    assert type(read.generator.published) is type(theirs)
    assert type(read.unet) is RetrievalUNet
    assert read.unet.config.neighbor_skips == (1,)
    expected = drawn(quiet(RetrievalPipeline.from_pipe(theirs)))
    torch.testing.assert_close(drawn(quiet(read)), expected, atol=1e-5, rtol=1e-4)


def test_a_single_file_that_cannot_be_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"one\.ckpt: expected a file of .safetensors; pickled weights run code"):
        RetrievalPipeline.from_single_file(tmp_path / "one.ckpt")
    (tmp_path / "one.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="expected Stable Diffusion 1, 2 or XL in one file, and its settings"):
        RetrievalPipeline.from_single_file(tmp_path / "one.safetensors")


def test_a_device_map_is_one_device(theirs: Any, tmp_path: Path) -> None:
    ours(theirs).save_pretrained(tmp_path / "saved")
    read = RetrievalPipeline.from_pretrained(tmp_path / "saved", device_map="meta")
    assert read.device.type == "meta"
    for several in ("balanced", "auto", {"unet": 0}):
        with pytest.raises(ValueError, match="device_map: expected one device, got .*enable_model_cpu_offload"):
            RetrievalPipeline.from_pretrained(tmp_path / "saved", device_map=several)


@pytest.mark.parametrize("auto", [AutoPipelineForText2Image, AutoPipelineForImage2Image, AutoPipelineForInpainting])
def test_auto_pipelines_make_one_of_ours_again_and_theirs_of_the_base(auto: Any, theirs: Any, family: str) -> None:
    pipe = ours(theirs)
    again = quiet(auto.from_pipe(pipe))
    assert type(again) is RetrievalPipeline
    assert again.unet is pipe.unet
    assert torch.equal(drawn(again, shown()), drawn(pipe, shown()))
    assert type(auto.from_pipe(pipe.as_base())).__module__.startswith("diffusers.")
    back = RetrievalPipeline.from_pipe(AutoPipelineForText2Image.from_pipe(pipe.as_base()))
    assert back.unet.conv_in.weight is theirs.unet.conv_in.weight


def test_networks_distilled_to_consistency_are_refused_with_the_reason(tmp_path: Path) -> None:
    theirs = save("sd", tmp_path)
    pipe = ours(theirs)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(ConfigError, match="got 'LCMScheduler': its steps take the prediction for the end of the way"):
        drawn(pipe)
    theirs.unet = UNet2DConditionModel(**STABLE_DIFFUSION, time_cond_proj_dim=8)
    with pytest.raises(ModelError, match=r"unet: expected one that is guided .* distilled to consistency \(LCM\)"):
        RetrievalPipeline.from_pipe(theirs)
