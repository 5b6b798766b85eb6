"""Vectors on disk, and the stamps of artifacts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rag_diffusion.errors import DataError, LineageError
from rag_diffusion.store.stamps import check_stamp, write_stamp
from rag_diffusion.store.vectors import VECTORS_FILE, Vectors, VectorWriter


@pytest.fixture
def vectors(rng: np.random.Generator) -> Vectors:
    return Vectors(*(rng.normal(size=(420, 12)).astype(np.float32) for _ in range(2)))


def test_vectors_survive_the_disk_and_are_mapped(vectors: Vectors, folder: Path) -> None:
    vectors.save(folder / VECTORS_FILE)
    again = Vectors.open(folder / VECTORS_FILE, 420, remedy="")
    np.testing.assert_array_equal(again.image, vectors.image)
    np.testing.assert_array_equal(again.text, vectors.text)
    assert isinstance(again.image, np.memmap)


def test_blocks_give_the_file_that_safetensors_would_write(vectors: Vectors, folder: Path) -> None:
    save_file({"image": vectors.image, "text": vectors.text}, folder / "theirs")
    with VectorWriter(folder / VECTORS_FILE, 420, 12) as file:
        for start in range(0, 420, 100):
            file.write(vectors.image[start : start + 100], vectors.text[start : start + 100])
    assert (folder / VECTORS_FILE).read_bytes() == (folder / "theirs").read_bytes()
    np.testing.assert_array_equal(load_file(folder / VECTORS_FILE)["text"], vectors.text)


def test_missing_truncated_and_too_few_vectors_are_refused(vectors: Vectors, folder: Path) -> None:
    file = folder / VECTORS_FILE
    with pytest.raises(DataError, match="expected image and text vectors.*make them again"):
        Vectors.open(file, 420, remedy="make them again")
    vectors.save(file)
    with pytest.raises(DataError, match="expected 421 vectors of images and of captions, got 420.*make them again"):
        Vectors.open(file, 421, remedy="make them again")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match="expected image and text vectors.*make them again"):
        Vectors.open(file, 420, remedy="make them again")


def test_a_stamp_of_another_corpus_is_refused_with_both_hashes(folder: Path) -> None:
    write_stamp(folder, {"corpus_hash": "theirs", "dim": 12})
    assert check_stamp(folder, "theirs", stage="embed") == {"corpus_hash": "theirs", "dim": 12}
    with pytest.raises(LineageError, match="ours.*theirs.*stage `embed`"):
        check_stamp(folder, "ours", stage="embed")


def test_a_missing_or_damaged_stamp_names_the_stage(folder: Path) -> None:
    with pytest.raises(DataError, match="found none; run the stage `embed`"):
        check_stamp(folder, "ours", stage="embed")
    (folder / "stamp.json").write_text("[]")
    with pytest.raises(DataError, match="expected a stamp.*run the stage `embed` again"):
        check_stamp(folder, "ours", stage="embed")
