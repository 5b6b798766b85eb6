from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file

from rag_diffusion.models.dual_encoder import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    DualEncoder,
    load_published,
)
from rag_diffusion.retrieval.embedder import KEPT_FILES, Embedder
from rag_diffusion.store.corpus import Corpus

TEXTS = ["a red circle", "b", "a much longer caption about two blue squares, noto style", "b"]


def test_vectors_are_those_of_open_clip(encoder: DualEncoder, corpus: Corpus) -> None:
    embedder = Embedder(encoder)
    with torch.inference_mode():
        text = encoder.model.encode_text(encoder.tokenize(TEXTS), normalize=True)
    np.testing.assert_allclose(embedder.texts(TEXTS), text.numpy(), atol=1e-5)
    vectors = embedder.images(corpus.pixels([0, 1]))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_texts_keep_their_order_and_do_not_depend_on_the_batch(encoder: DualEncoder) -> None:
    embedder = Embedder(encoder)
    together = embedder.texts(TEXTS)
    np.testing.assert_allclose(together, np.concatenate([embedder.texts([t]) for t in TEXTS]), atol=1e-5)
    np.testing.assert_array_equal(together[1], together[3])
    assert np.abs(together[0] - together[2]).max() > 0.01


def test_images_do_not_depend_on_the_batch(encoder: DualEncoder, corpus: Corpus) -> None:
    embedder = Embedder(encoder)
    pixels = corpus.pixels([0, 100, 200])
    alone = np.concatenate([embedder.images(pixels[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(embedder.images(pixels), alone, atol=1e-5)


def test_kept_features_are_used_for_the_same_pixels_only(encoder: DualEncoder, corpus: Corpus, tmp_path: Path) -> None:
    plain, keeping = Embedder(encoder), Embedder(encoder, scratch=tmp_path)
    first = corpus.pixels([0, 1])
    np.testing.assert_array_equal(keeping.images(first), plain.images(first))
    assert len(list(tmp_path.glob("image-*"))) == 1
    np.testing.assert_array_equal(keeping.images(first), plain.images(first))
    assert len(list(tmp_path.glob("image-*"))) == 1
    other = corpus.pixels([2, 3])
    np.testing.assert_array_equal(keeping.images(other), plain.images(other))
    assert len(list(tmp_path.glob("image-*"))) == 2


def test_scratch_does_not_grow_without_end(encoder: DualEncoder, tmp_path: Path) -> None:
    keeping = Embedder(encoder, scratch=tmp_path)
    for number in range(KEPT_FILES + 3):
        keeping.texts([f"caption {number}"])
    assert len(list(tmp_path.iterdir())) == KEPT_FILES
    keeping.texts(["not to be kept"], keep=False)
    assert len(list(tmp_path.iterdir())) == KEPT_FILES


def test_published_encoder_gives_unit_vectors_of_its_own_towers(corpus: Corpus, tmp_path: Path) -> None:
    tower = {"width": 64, "layers": 1}
    config = {
        "embed_dim": 16,
        "vision_cfg": tower | {"image_size": 32, "patch_size": 16},
        "text_cfg": tower | {"heads": 1, "context_length": 20, "vocab_size": 49408},
    }
    (tmp_path / CONFIG_FILE).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    theirs = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    save_file(theirs.state_dict(), tmp_path / WEIGHTS_FILE)
    encoder = load_published(f"local-dir:{tmp_path}", "")
    embedder = Embedder(encoder, scratch=tmp_path / "scratch")
    with torch.inference_mode():
        text = theirs.encode_text(encoder.tokenize(TEXTS), normalize=True)
        images = [encoder.preprocess(Image.fromarray(one)) for one in corpus.pixels([0, 9])]
        image = theirs.encode_image(torch.stack(images), normalize=True)
    np.testing.assert_allclose(embedder.texts(TEXTS), text.numpy(), atol=1e-5)
    np.testing.assert_allclose(embedder.images(corpus.pixels([0, 9])), image.numpy(), atol=1e-5)
    assert not (tmp_path / "scratch").exists()
