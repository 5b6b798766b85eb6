from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rag_diffusion.errors import DataError, LineageError
from rag_diffusion.store.corpus import Corpus
from rag_diffusion.store.vectors import VECTORS_FILE, Vectors
from tests.unit.retrieval.made import random_vectors


def test_vectors_survive_the_disk(corpus: Corpus, folder: Path) -> None:
    vectors = random_vectors(corpus)
    vectors.save(folder)
    again = Vectors.open(folder, corpus)
    np.testing.assert_array_equal(again.image, vectors.image)
    np.testing.assert_array_equal(again.text, vectors.text)
    assert again.encoder_hash == vectors.encoder_hash


def test_another_corpus_is_refused_with_both_hashes(corpus: Corpus, tiny_corpus: Corpus, folder: Path) -> None:
    random_vectors(corpus).save(folder)
    with pytest.raises(LineageError, match=f"{tiny_corpus.hash}.*{corpus.hash}.*stage `embed`"):
        Vectors.open(folder, tiny_corpus)


def test_missing_and_truncated_vectors_are_refused(corpus: Corpus, folder: Path) -> None:
    with pytest.raises(DataError, match="found none; run the stage `embed`"):
        Vectors.open(folder, corpus)
    random_vectors(corpus).save(folder)
    file = folder / VECTORS_FILE
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match="run the stage `embed` again"):
        Vectors.open(folder, corpus)
    file.unlink()
    with pytest.raises(DataError, match="run the stage `embed` again"):
        Vectors.open(folder, corpus)


def test_vectors_of_too_few_pairs_are_refused(corpus: Corpus, folder: Path) -> None:
    whole = random_vectors(corpus)
    Vectors(
        image=whole.image[:-1],
        text=whole.text,
        corpus_hash=corpus.hash,
        encoder_hash="none",
    ).save(folder)
    with pytest.raises(LineageError, match="expected 420 vectors, got 419"):
        Vectors.open(folder, corpus)
