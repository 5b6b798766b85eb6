from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from rag_diffusion.errors import ModelError
from rag_diffusion.models.dual_encoder import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    DualEncoder,
    create_embedded,
    load_dual_encoder,
    load_published,
    save_weights,
    write_published,
)

TEXTS = ["a red apple, noto style", "a cat"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[DualEncoder, Path]:
    folder = tmp_path_factory.mktemp("project") / "encoder"
    folder.mkdir()
    encoder = create_embedded(folder, image_size=32, embed_dim=8, seed=0)
    save_weights(encoder, folder)
    return encoder, folder


@pytest.fixture
def copied(built: tuple[DualEncoder, Path], tmp_path: Path) -> Path:
    """The encoder's folder at another place."""
    return shutil.copytree(built[1], tmp_path / "moved" / "encoder")


def same(encoder: DualEncoder, other: DualEncoder) -> bool:
    images = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
    with torch.inference_mode():
        pairs = [
            (one.model.encode_image(images), one.model.encode_text(one.tokenize(TEXTS))) for one in (encoder, other)
        ]
    return all(torch.equal(*both) for both in zip(*pairs, strict=True))


def test_moved_folder_loads_and_gives_the_same_vectors(built: tuple[DualEncoder, Path], copied: Path) -> None:
    assert same(built[0], load_dual_encoder(copied))


def test_no_file_of_the_folder_names_a_place_of_this_machine(
    built: tuple[DualEncoder, Path],
) -> None:
    for file in built[1].iterdir():
        content = file.read_bytes()
        assert str(built[1].parent).encode() not in content, file.name
        assert str(Path.home()).encode() + b"/" not in content, file.name


def test_open_clip_alone_loads_it_from_the_projects_root(
    built: tuple[DualEncoder, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(built[1], tmp_path / "data" / "encoder")
    monkeypatch.chdir(tmp_path)
    model, _, _ = open_clip.create_model_and_transforms("local-dir:data/encoder")
    tokens = open_clip.get_tokenizer("local-dir:data/encoder")(TEXTS)
    with torch.inference_mode():
        expected = built[0].model.encode_text(built[0].tokenize(TEXTS))
        assert torch.equal(model.eval().encode_text(tokens), expected)


def test_towers_are_trunk_and_head(built: tuple[DualEncoder, Path]) -> None:
    encoder = built[0]
    tokens, images = encoder.tokenize(TEXTS), torch.zeros(1, 3, 32, 32)
    with torch.inference_mode():
        text = encoder.text_head(encoder.text_trunk(tokens))
        image = encoder.image_head(encoder.image_trunk(images))
        torch.testing.assert_close(text, encoder.model.encode_text(tokens))
        torch.testing.assert_close(image, encoder.model.encode_image(images))


def test_missing_or_damaged_weights_are_refused(copied: Path) -> None:
    weights = copied / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"damaged.*run the stage `align` again"):
        load_dual_encoder(copied)
    weights.unlink()
    with pytest.raises(ModelError, match=f"{WEIGHTS_FILE}, found none; run the stage `align`"):
        load_dual_encoder(copied)


def test_weights_of_another_shape_are_refused(copied: Path) -> None:
    state = load_file(copied / WEIGHTS_FILE)
    state["text.proj.weight"] = torch.zeros(9, 384)
    save_file(state, copied / WEIGHTS_FILE)
    with pytest.raises(ModelError, match=r"size mismatch for text.proj.weight"):
        load_dual_encoder(copied)


def test_config_that_is_no_json_is_refused(copied: Path) -> None:
    (copied / CONFIG_FILE).write_text("{")
    with pytest.raises(ModelError, match=r"run the stage `align` again"):
        load_dual_encoder(copied)


def test_published_model_without_weights_is_refused() -> None:
    with pytest.raises(ModelError, match=r"encoder.pretrained: .*ViT-B-32.*laion2b_s34b_b79k"):
        load_published("ViT-B-32", "")


def test_unknown_published_names_are_refused() -> None:
    with pytest.raises(ModelError, match=r"'ViT-Z-1'.*encoder.model to 'embedded'"):
        load_published("ViT-Z-1", "openai")
    with pytest.raises(ModelError, match=r"'no-such-tag'.*not a known tag"):
        load_published("RN50", "no-such-tag")


def test_unreachable_hub_says_what_was_tried_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    write_published(tmp_path, model="ViT-B-32", pretrained="laion2b_s34b_b79k")
    with pytest.raises(ModelError, match=r"ViT-B-32.*laion2b_s34b_b79k.*connection to the hub"):
        load_dual_encoder(tmp_path)


def test_published_model_loads_from_a_local_folder(tmp_path: Path) -> None:
    tower = {"width": 64, "layers": 1}
    config = {
        "embed_dim": 16,
        "vision_cfg": tower | {"image_size": 32, "patch_size": 16},
        "text_cfg": tower | {"heads": 1, "context_length": 20, "vocab_size": 49408},
    }
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    ours.mkdir()
    (theirs / CONFIG_FILE).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    model = open_clip.create_model(f"local-dir:{theirs}").eval()
    save_file(model.state_dict(), theirs / WEIGHTS_FILE)
    write_published(ours, model=f"local-dir:{theirs}", pretrained="")
    encoder = load_dual_encoder(ours)
    assert not encoder.embedded
    tokens = encoder.tokenize(TEXTS)
    with torch.inference_mode():
        expected = model.encode_text(tokens)
        torch.testing.assert_close(encoder.model.encode_text(tokens), expected)
    (theirs / WEIGHTS_FILE).unlink()
    with pytest.raises(ModelError, match=r"Required pretrained weights"):
        load_dual_encoder(ours)
