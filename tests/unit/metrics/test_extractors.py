"""The networks behind the distances: named after themselves, and missing ones are told."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from rag_diffusion.config import Config
from rag_diffusion.errors import ModelError
from rag_diffusion.metrics.extractors import EmbeddedExtractor, InceptionExtractor, make_extractor
from rag_diffusion.metrics.ruler.trunk import POOLED, Trunk
from tests.unit.scored import noise


def inception(config: Config, weights: str) -> Config:
    return config.model_copy(
        update={"score": config.score.model_copy(update={"extractor": "inception", "inception_weights": weights})}
    )


def test_the_default_is_named_after_its_network_and_not_called_fid(scoring_config: Config, tiny_trunk: Trunk) -> None:
    found = make_extractor(scoring_config.score, tiny_trunk)
    assert isinstance(found, EmbeddedExtractor)
    assert (found.name, found.frechet_name) == ("efficientnet_lite2", "frechet")
    assert found.features(noise((2, 64, 64, 3))).shape == (2, POOLED)


def test_inception_from_a_file_is_called_fid(
    tmp_path: Path, scoring_config: Config, tiny_trunk: Trunk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.save({}, tmp_path / "none.pth")
    with monkeypatch.context() as patch:  # the class makes a network only together with a file of weights
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        random = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(tmp_path / "none.pth"))
    torch.save(random.state_dict(), tmp_path / "weights.pth")
    found = make_extractor(inception(scoring_config, str(tmp_path / "weights.pth")).score, tiny_trunk)
    assert (found.name, found.frechet_name) == ("inception_v3", "fid")
    assert found.features(noise((2, 32, 32, 3))).shape == (2, 2048)


def test_a_missing_weights_file_is_told(scoring_config: Config, tiny_trunk: Trunk) -> None:
    with pytest.raises(ModelError, match="expected a file with Inception-FID weights, found none at 'nowhere.pth'"):
        make_extractor(inception(scoring_config, "nowhere.pth").score, tiny_trunk)


def test_weights_of_another_network_are_told(tmp_path: Path) -> None:
    torch.save({"layer": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match="expected Inception-FID weights from .*other.pth"):
        InceptionExtractor(str(tmp_path / "other.pth"))


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    torch.save({"layer": np.random.default_rng}, tmp_path / "evil.pth")
    with pytest.raises(ModelError, match="expected Inception-FID weights"):
        InceptionExtractor(str(tmp_path / "evil.pth"))


def test_a_hub_that_cannot_be_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", unreachable)
    with pytest.raises(ModelError, match="from the hub, got URLError.*score.extractor to `embedded`"):
        InceptionExtractor("")
