"""The frozen text encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rag_diffusion.device import choose_device
from rag_diffusion.errors import ConfigError, ModelError
from rag_diffusion.models.text_encoder import TextEncoder


def test_features_have_one_row_a_token_and_zeros_where_there_is_none(text_encoder: TextEncoder) -> None:
    features = text_encoder(["a red apple", ""])
    assert features.states.shape == (2, 15, 384)
    assert features.mask.sum(1).tolist() == [5, 2], "start, words, end"
    assert features.states[0, 5:].abs().max() == 0
    assert features.states[0, :5].abs().min(dim=1).values.max() > 0


def test_a_text_is_encoded_alike_alone_and_in_a_batch(text_encoder: TextEncoder) -> None:
    together = text_encoder(["a red apple", "an icon of a tulip, drawn in the Noto style"])
    torch.testing.assert_close(text_encoder(["a red apple"]).states[0], together.states[0], atol=1e-5, rtol=1e-4)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"model.text_encoder: expected .* as a folder or a hub name that can be reached"
    ):
        TextEncoder(str(tmp_path))


def test_a_gpu_that_is_not_there_is_an_error_of_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="expected a CUDA GPU, found none"):
        choose_device("cuda")
