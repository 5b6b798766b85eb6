"""diffusers' own tests of pipelines, LoRA and IP-Adapter, on ours of every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest

from rag_diffusion.sampling.pipeline import RetrievalPipeline
from tests.reference.diffusers_suite import expected, suite
from tests.unit.sampling.families import components, inputs

common = suite("pipelines.testing_utils")
names = suite("pipelines.pipeline_params")
ip_adapter = suite("pipelines.stable_diffusion.ip_adapter_tester")


class InSafetensors(RetrievalPipeline):
    """Writes safetensors where diffusers' tests ask for pickled weights, which are refused; all else as it is."""

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        super().save_pretrained(save_directory, **options | {"safe_serialization": True})


class Ours(common.BasePipelineTesterConfig):
    """What diffusers' tests ask of a pipeline."""

    family: str
    shown = True
    pipeline_class = InSafetensors
    required_input_params_in_call_signature = names.TEXT_TO_IMAGE_PARAMS
    batch_input_params = names.TEXT_TO_IMAGE_BATCH_PARAMS
    output_shape = (3, 16, 16)

    def get_dummy_components(self) -> dict[str, Any]:
        return components(self.family)

    def get_dummy_inputs(self) -> dict[str, Any]:
        return inputs(shown=self.shown)


class Whole(common.PipelineTesterMixin):
    """The tests of a pipeline."""

    def test_encode_prompt_works_in_isolation(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It draws without a text encoder, which captions want, and looks for the class in diffusers."""
        monkeypatch.setattr(diffusers.pipelines, "InSafetensors", InSafetensors, raising=False)
        self.shown = False
        super().test_encode_prompt_works_in_isolation()


class TestStableDiffusion(Ours, Whole):
    family = "sd"


class TestStableDiffusionXL(Ours, Whole):
    family = "sdxl"


class TestDeepFloyd(Ours, Whole):
    family = "if"
    output_shape = (3, 8, 8)


@expected(
    {
        "test_serialization_with_variants": "it reads model_index.json: a generator of this project has generator.json",
    }
)
class TestOwn(Ours, Whole):
    family = "own"


class OfOneEncoder(InSafetensors):
    """Stable Diffusion 1 and 2 have one text encoder."""

    _lora_loadable_modules = ("unet", "text_encoder")


class WithLora(common.LoraTesterMixin):
    """LoRA is there by the base's own methods, not by inheritance."""

    def setup_method(self) -> None:
        """Nothing is skipped."""


class TestLoraOfStableDiffusion(Ours, WithLora):
    family = "sd"
    pipeline_class = OfOneEncoder


class TestLoraOfStableDiffusionXL(Ours, WithLora):
    family = "sdxl"


class TestIPAdapterOfStableDiffusion(Ours, ip_adapter.IPAdapterTesterMixin):
    family = "sd"


class TestIPAdapterOfStableDiffusionXL(Ours, ip_adapter.IPAdapterTesterMixin):
    family = "sdxl"
