"""diffusers' own tests of `UNet2DConditionModel`, on RetrievalUNet, which the same dictionaries make."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rag_diffusion.models.unet import RetrievalUNet
from tests.reference.diffusers_suite import suite

theirs = suite("models.unets.test_models_unet_2d_condition")
common = suite("testing_utils")


@pytest.fixture(scope="module", autouse=True)
def _determinism() -> Iterator[None]:
    """The tests of diffusers turn it on where they are imported."""
    common.enable_full_determinism()
    yield
    common.disable_full_determinism()


class Ours:
    """What is tested."""

    model_class = RetrievalUNet


class TestUNet(Ours, theirs.TestUNet2DCondition):
    """Save, load, devices, types, gradients."""


class TestLora(Ours, theirs.TestUNet2DConditionLoRA):
    """LoRA."""


class TestMemory(Ours, theirs.TestUNet2DConditionMemory):
    """Offload and layerwise casting."""


class TestTraining(Ours, theirs.TestUNet2DConditionTraining):
    """Training and gradient checkpoints."""


class TestAttention(Ours, theirs.TestUNet2DConditionAttention):
    """Attention processors, slices, masks."""


class TestCustomDiffusion(Ours, theirs.TestUNet2DConditionCustomDiffusion):
    """Custom diffusion."""


class TestIPAdapter(Ours, theirs.TestUNet2DConditionIPAdapter):
    """IP-Adapter."""
