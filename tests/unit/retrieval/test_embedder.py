from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from rag_diffusion.corpus.store import Corpus
from rag_diffusion.models.dual_encoder import DualEncoder
from rag_diffusion.retrieval.embedder import KEPT_FILES, Embedder

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
    np.testing.assert_allclose(
        together, np.concatenate([embedder.texts([t]) for t in TEXTS]), atol=1e-5
    )
    np.testing.assert_array_equal(together[1], together[3])
    assert np.abs(together[0] - together[2]).max() > 0.01


def test_images_do_not_depend_on_the_batch(encoder: DualEncoder, corpus: Corpus) -> None:
    embedder = Embedder(encoder)
    pixels = corpus.pixels([0, 100, 200])
    alone = np.concatenate([embedder.images(pixels[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(embedder.images(pixels), alone, atol=1e-5)


def test_kept_features_are_used_for_the_same_pixels_only(
    encoder: DualEncoder, corpus: Corpus, tmp_path: Path
) -> None:
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
