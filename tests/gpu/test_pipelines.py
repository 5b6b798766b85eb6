"""What a machine with a GPU shows: half precision, compilation, offload, out of memory, two GPUs, speed.

Random weights in the shape of Stable Diffusion 1.5: nothing is loaded from anywhere. Where there is no GPU the same
tests run on the CPU over a small network, so that they do not rot; what a GPU alone can show is skipped there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from rag_diffusion.errors import ModelError
from rag_diffusion.models.trainable import train_parts
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.seeds import seeded
from tests.unit.models.bases import PUBLISHED, STABLE_DIFFUSION

GPU = torch.cuda.is_available()
DEVICE, DTYPES = ("cuda", (torch.float16, torch.bfloat16)) if GPU else ("cpu", (torch.bfloat16,))
UNET: dict[str, Any] = PUBLISHED["stable-diffusion-1.5"][0] if GPU else STABLE_DIFFUSION
SKIPS, TEXT_WIDTH, VAE_WIDTHS = ((6, 8), 768, (128, 256, 512, 512)) if GPU else ((1,), 16, (32, 32))
TEXT = Guidance(mode="text", text_guidance_scale=7.5)
_LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}


@pytest.fixture
def theirs() -> StableDiffusionPipeline:
    """Stable Diffusion 1.5 with random weights; its prompts are given as embeddings. Offload hooks stay on it."""
    torch.manual_seed(0)
    levels = len(VAE_WIDTHS)
    vae = AutoencoderKL(
        block_out_channels=VAE_WIDTHS, latent_channels=4, layers_per_block=2,
        sample_size=UNET["sample_size"] * 2 ** (levels - 1),
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
    )  # fmt: skip
    text = CLIPTextModel(CLIPTextConfig(hidden_size=TEXT_WIDTH, num_hidden_layers=2, num_attention_heads=4))
    pipe = StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=None, unet=UNet2DConditionModel(**UNET),
        scheduler=DDIMScheduler(**_LATENT), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe(theirs: StableDiffusionPipeline) -> RetrievalPipeline:
    made = RetrievalPipeline.from_pipe(theirs, neighbor_skips=SKIPS)
    made.set_progress_bar_config(disable=True)
    torch.manual_seed(1)
    made.unet.randomize_output(0.02)
    return made.to(DEVICE, DTYPES[0])


def embeds() -> dict[str, torch.Tensor]:
    draws = torch.Generator().manual_seed(2)
    names = ("prompt_embeds", "negative_prompt_embeds")
    return {name: torch.randn(1, 77, TEXT_WIDTH, generator=draws).to(DEVICE, DTYPES[0]) for name in names}


def drawn(pipe: Any, **more: Any) -> torch.Tensor:
    options: dict[str, Any] = {"num_inference_steps": 4, "output_type": "latent", "generator": seeded([1])} | embeds()
    if isinstance(pipe, RetrievalPipeline):
        options |= {"guidance": TEXT, "num_neighbors": 0}
    else:
        options |= {"guidance_scale": 7.5}
    found: torch.Tensor = pipe(**options | more).images
    return found


def seconds(call: Callable[[], Any]) -> float:
    """The least of three."""
    call()
    times = []
    for _ in range(3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def peak(call: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, int]:
    """What it gives, and the most bytes that the GPU held meanwhile."""
    if not GPU:
        return call(), 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return call(), torch.cuda.max_memory_allocated()


def test_half_precision_draws_what_diffusers_draws(pipe: RetrievalPipeline) -> None:
    for dtype in DTYPES:
        pipe.to(dtype)
        given = {name: value.to(dtype) for name, value in embeds().items()}
        ours, reference = drawn(pipe, **given), drawn(pipe.as_base(), **given)
        assert ours.isfinite().all()
        assert (ours.float() - reference.float()).abs().mean() < 0.05 * reference.float().abs().mean()


def test_compiled_it_draws_the_same(pipe: RetrievalPipeline) -> None:
    before = drawn(pipe)
    pipe.unet = torch.compile(pipe.unet, backend="inductor" if GPU else "eager")
    after = drawn(pipe)
    assert (after.float() - before.float()).abs().mean() < 0.05 * before.float().abs().mean()


SEQUENTIAL = pytest.param(
    "enable_sequential_cpu_offload",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not GPU, reason="needs a GPU, which weights go to"),
    ],
)


@pytest.mark.parametrize("how", ["enable_model_cpu_offload", SEQUENTIAL])
def test_offloaded_it_draws_the_same_in_less_memory(pipe: RetrievalPipeline, how: str) -> None:
    before, whole = peak(lambda: drawn(pipe))
    getattr(pipe, how)(device=DEVICE)
    after, least = peak(lambda: drawn(pipe))
    assert least < whole or not GPU
    assert (after.float() - before.float()).abs().mean() < 0.05 * before.float().abs().mean()


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a GPU, whose memory can be limited")
def test_out_of_memory_says_what_to_lower(pipe: RetrievalPipeline) -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    used = torch.cuda.memory_allocated()
    torch.cuda.set_per_process_memory_fraction((used + 2**28) / total)
    try:
        with pytest.raises(ModelError, match="out of memory while drawing 64 images at once"):
            drawn(pipe, num_images_per_prompt=64, generator=seeded(range(64)))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_second_gpu_draws_too(pipe: RetrievalPipeline) -> None:
    before = drawn(pipe)
    pipe.to("cuda:1")
    after = drawn(pipe)
    assert after.device.index == 1
    assert (after.cpu().float() - before.cpu().float()).abs().mean() < 0.05 * before.float().abs().mean().cpu()


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a GPU: times of busy cores say nothing")
def test_without_neighbors_it_is_about_as_fast_as_diffusers(pipe: RetrievalPipeline) -> None:
    base = pipe.as_base()
    base.set_progress_bar_config(disable=True)
    ours, reference = (seconds(lambda one=one: drawn(one, num_inference_steps=20)) for one in (pipe, base))
    assert ours < 1.15 * reference, f"{ours:.2f} s against {reference:.2f} s"


def test_a_step_of_training_keeps_what_the_page_says(pipe: RetrievalPipeline) -> None:
    """docs/diffusers.md counts what a backward pass needs; the process holds as much, and little more."""
    if not GPU:
        pytest.skip("needs a GPU, which tells what it holds; tests/unit/training/test_training_memory.py counts")
    unet = pipe.unet.train()
    train_parts(unet, "neighbors")
    draws = torch.Generator().manual_seed(3)
    sample = torch.randn(1, 4, 64, 64, generator=draws).to(DEVICE, DTYPES[0])
    text = embeds()["prompt_embeds"]
    maps = unet.encode_neighbors(sample.repeat(3, 1, 1, 1), text.repeat(3, 1, 1))
    rows, weights = torch.arange(3, device=DEVICE)[None], torch.ones(1, 3, device=DEVICE)
    before = torch.cuda.memory_allocated()
    loss = unet(sample, 500, text, neighbors=unet.project_neighbors(maps, rows, weights)).sample.square().mean()
    held = torch.cuda.memory_allocated() - before
    assert 0.3e9 < held < 0.8e9
    loss.backward()
    assert all(value.grad is not None for value in unet.neighbor_attention.parameters() if value.requires_grad)
