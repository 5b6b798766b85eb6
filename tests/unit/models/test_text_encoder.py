"""The frozen text encoder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rag_diffusion.device import choose_device
from rag_diffusion.errors import ConfigError, ModelError
from rag_diffusion.models.text_encoder import TextEncoder, embedded_path


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


def test_no_code_of_a_folder_is_run_and_nobody_is_asked_whether_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "ran"
    told = {"model_type": "harm", "auto_map": {"AutoConfig": "harm.Config", "AutoModel": "harm.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(told))
    (tmp_path / "harm.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda text="": asked.append(text) or "y")

    with pytest.raises(ModelError, match=r"model\.text_encoder: expected"):
        TextEncoder(str(tmp_path))
    assert (asked, mark.exists()) == ([], False)


def test_weights_that_are_a_pickle_are_refused(tmp_path: Path) -> None:
    for file in Path(embedded_path()).glob("*.*"):
        if file.suffix != ".safetensors":
            shutil.copyfile(file, tmp_path / file.name)
    weights = load_file(Path(embedded_path()) / "model.safetensors")
    torch.save(weights, tmp_path / "pytorch_model.bin")

    with pytest.raises(ModelError, match="safetensors"):
        TextEncoder(str(tmp_path))
