"""LoRA, textual inversion, ControlNet and IP-Adapter of diffusers, each beside neighbors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from rag_diffusion.models.neighbor_batch import Neighbor
from rag_diffusion.sampling.guidance import Guidance
from rag_diffusion.sampling.pipeline import RetrievalPipeline
from rag_diffusion.sampling.seeds import seeded
from tests.unit.models.pipelines import save
from tests.unit.sampling.prompts import ours, quiet

TEXT = Guidance(mode="text", text_guidance_scale=3.0)
PICTURE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8))


@pytest.fixture
def theirs(tmp_path: Path) -> Any:
    return save("sd", tmp_path)


@pytest.fixture
def shown() -> list[Neighbor]:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return [Neighbor(image=pixels, caption="a ring", pair_id="ring")]


def drawn(pipe: Any, *given: Any, **more: Any) -> torch.Tensor:
    options: dict[str, Any] = {"num_inference_steps": 3, "output_type": "pt", "generator": seeded([1])} | more
    if isinstance(pipe, RetrievalPipeline):
        options = {"guidance": TEXT, **options} | ({} if given else {"num_neighbors": 0})
    else:
        options["guidance_scale"] = 3.0
    found: torch.Tensor = pipe("a red dot", *given, **options).images
    return found


def lora_file(theirs: Any, folder: Path, seed: int) -> Path:
    """Weights of LoRA for the U-Net's attention, as diffusers saves them."""
    theirs.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"]), "made")
    torch.manual_seed(seed)
    state = {
        name: torch.randn_like(value)
        for name, value in get_peft_model_state_dict(theirs.unet, adapter_name="made").items()
    }
    theirs.unet.delete_adapters("made")
    folder.mkdir()
    type(theirs).save_lora_weights(folder, unet_lora_layers=state)
    return folder


def test_lora_beside_neighbors(theirs: Any, shown: list[Neighbor], tmp_path: Path) -> None:
    one, two = (lora_file(theirs, tmp_path / f"lora{seed}", seed) for seed in (1, 2))
    pipe = ours(theirs)
    plain = drawn(pipe, shown)
    pipe.load_lora_weights(one, adapter_name="one")
    pipe.load_lora_weights(two, adapter_name="two")
    assert pipe.get_list_adapters() == {"unet": ["one", "two"]}
    assert not any("lora" in name for name, _ in pipe.unet.neighbor_attention.named_parameters())
    pipe.set_adapters(["one"], [0.7])
    by_one = drawn(pipe, shown)
    assert not torch.allclose(by_one, plain, atol=1e-3)
    torch.testing.assert_close(drawn(pipe), drawn(pipe.as_base()), atol=1e-5, rtol=1e-4)
    off = drawn(pipe, shown, cross_attention_kwargs={"scale": 0.0})
    torch.testing.assert_close(off, plain, atol=1e-5, rtol=1e-4)
    pipe.set_adapters(["one", "two"], [0.7, 0.5])
    assert not torch.allclose(drawn(pipe, shown), by_one, atol=1e-3)
    pipe.unload_lora_weights()
    assert torch.equal(drawn(pipe, shown), plain)


def test_textual_inversion_beside_neighbors(theirs: Any, shown: list[Neighbor]) -> None:
    pipe = ours(theirs)
    options: dict[str, Any] = {"num_inference_steps": 2, "output_type": "pt", "generator": seeded([1])}
    pipe.load_textual_inversion({"<dot>": torch.ones(1, 16)}, token="<dot>")
    one = pipe("a <dot>", shown, **options).images
    assert "<dot>" in pipe.tokenizer.get_vocab()
    pipe.unload_textual_inversion("<dot>")
    other = pipe("a <dot>", shown, **options | {"generator": seeded([1])}).images
    assert not torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("several", [False, True])
def test_a_controlnet_beside_neighbors(theirs: Any, shown: list[Neighbor], several: bool) -> None:
    torch.manual_seed(2)
    network = ControlNetModel.from_unet(theirs.unet, conditioning_embedding_out_channels=(8, 8))
    for name, value in network.named_parameters():
        if "controlnet_" in name:
            torch.nn.init.normal_(value, std=0.3)
    pipe = ours(theirs, controlnet=[network, network] if several else network)
    given: dict[str, Any] = {"control_image": [PICTURE, PICTURE] if several else PICTURE}
    plain, controlled = drawn(ours(theirs), shown), drawn(pipe, shown, **given)
    assert not torch.allclose(plain, controlled, atol=1e-3)
    from diffusers import StableDiffusionControlNetPipeline

    reference = quiet(StableDiffusionControlNetPipeline.from_pipe(theirs, controlnet=pipe.controlnet))
    expected = drawn(
        reference, image=given["control_image"], controlnet_conditioning_scale=[1.0, 1.0] if several else 1.0
    )
    torch.testing.assert_close(drawn(pipe, **given), expected, atol=1e-4, rtol=1e-3)
    late = drawn(pipe, shown, **given, control_guidance_start=0.5)
    assert not torch.allclose(late, controlled, atol=1e-3)
    assert not torch.allclose(late, plain, atol=1e-3)
    torch.testing.assert_close(
        drawn(pipe, shown, **given, controlnet_conditioning_scale=0.0), plain, atol=1e-4, rtol=1e-3
    )
    with pytest.raises(ValueError, match="control_image: expected both .*, got a ControlNet, and no picture"):
        drawn(pipe, shown)
    with pytest.raises(ValueError, match="control_image: expected both .*, got a picture, and no ControlNet"):
        drawn(ours(theirs), shown, control_image=PICTURE)


def ip_adapter(theirs: Any, folder: Path) -> Path:
    """An image encoder and the weights of an IP-Adapter, in the form of its authors."""
    torch.manual_seed(3)
    config = CLIPVisionConfig(
        hidden_size=16, projection_dim=12, num_hidden_layers=1, num_attention_heads=2, image_size=16,
        intermediate_size=16, patch_size=8,
    )  # fmt: skip
    CLIPVisionModelWithProjection(config).save_pretrained(folder / "models" / "image_encoder")
    processors = [name for name in theirs.unet.attn_processors if "attn2" in name]
    state = {"image_proj.proj.weight": torch.randn(4 * 16, 12), "image_proj.proj.bias": torch.zeros(4 * 16),
             "image_proj.norm.weight": torch.ones(16), "image_proj.norm.bias": torch.zeros(16)}  # fmt: skip
    for number, name in enumerate(processors):
        width = theirs.unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape[0]
        for kind in ("k", "v"):
            state[f"ip_adapter.{2 * number + 1}.to_{kind}_ip.weight"] = torch.randn(width, 16)
    save_file(state, folder / "models" / "adapter.safetensors")
    return folder


def test_an_ip_adapter_beside_neighbors(theirs: Any, shown: list[Neighbor], tmp_path: Path) -> None:
    folder = ip_adapter(theirs, tmp_path / "ip")
    pipe = ours(theirs)
    plain = drawn(pipe, shown)
    pipe.feature_extractor = CLIPImageProcessor(crop_size=16, size=16)
    pipe.load_ip_adapter(str(folder), subfolder="models", weight_name="adapter.safetensors")
    assert isinstance(pipe.image_encoder, CLIPVisionModelWithProjection)
    pipe.set_ip_adapter_scale(0.6)
    by_both = drawn(pipe, shown, ip_adapter_image=PICTURE)
    alone = drawn(pipe, ip_adapter_image=PICTURE)
    assert not torch.allclose(by_both, plain, atol=1e-3)
    assert not torch.allclose(by_both, alone, atol=1e-3)
    torch.testing.assert_close(alone, drawn(quiet(pipe.as_base()), ip_adapter_image=PICTURE), atol=1e-4, rtol=1e-3)
    with pytest.raises(ValueError, match="ip_adapter_image: expected both .*, got an adapter, and no picture"):
        drawn(pipe, shown)
    pipe.unload_ip_adapter()
    torch.testing.assert_close(drawn(pipe, shown), plain, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="ip_adapter_image: expected both .*, got a picture, and no adapter"):
        drawn(pipe, shown, ip_adapter_image=PICTURE)


def test_tiles_and_slices_of_the_vae(theirs: Any, shown: list[Neighbor]) -> None:
    pipe = ours(theirs)
    pipe.enable_vae_tiling()
    assert theirs.vae.use_tiling
    pipe.disable_vae_tiling()
    pipe.enable_vae_slicing()
    assert theirs.vae.use_slicing
    assert drawn(pipe, shown).isfinite().all()


def test_clip_skip_reaches_prompts_and_captions(theirs: Any, shown: list[Neighbor]) -> None:
    pipe = ours(theirs)
    assert not torch.allclose(drawn(pipe, shown, clip_skip=1), drawn(pipe, shown), atol=1e-4)
    torch.testing.assert_close(drawn(pipe, shown, clip_skip=0), drawn(pipe, shown), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="clip_skip: expected 0 to 2"):
        drawn(pipe, shown, clip_skip=9)
